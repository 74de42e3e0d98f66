"""Rewards by name and weight, and the sources of the message labels that they read."""
