"""What all loops share: Ray Train, Hugging Face's trainer, optimizers and common settings."""
