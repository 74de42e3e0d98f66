"""What a step is worth, by name and weight, and who labels the messages that rewards read."""
