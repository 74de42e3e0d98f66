"""Supervised fine-tuning of an adapter (Eq. 1)."""
