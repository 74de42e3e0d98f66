"""Small base models that need no model hub, and settings of the hardware that models run on."""
