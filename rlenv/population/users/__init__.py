"""The users of the reference population: traits, agenda, hidden state, wording and replies."""
