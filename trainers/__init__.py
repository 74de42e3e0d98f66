"""One training loop a folder, all through Ray Train: pretraining, SFT, discriminator, DPO, the chatbot's RL."""
