"""A synthetic user: traits, agenda, mind, voice and replies."""
