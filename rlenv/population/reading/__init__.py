"""Rule-based reading of text: acts, cues, malformed messages, register, similarity."""
