"""Training of the discriminator and its controls (Eq. 3)."""
