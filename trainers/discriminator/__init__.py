"""Training of the discriminator and of its controls (Eq. 3)."""
