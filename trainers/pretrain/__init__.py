"""Pretraining of the small Llama."""
