"""Small base models with no hub, and the hardware that models compute on."""
