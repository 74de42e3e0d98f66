"""Turns conversations into training data: preference pairs, advantages and training rows."""
