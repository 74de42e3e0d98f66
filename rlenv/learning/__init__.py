"""What is learnt from: preference pairs, advantages and training rows, made of conversations."""
