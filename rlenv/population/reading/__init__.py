"""How a text is read by rules: acts, cues, faults, register, similarity."""
