"""What every loop stands on: Ray Train, Hugging Face's trainer, optimizers, and the settings that loops share."""
