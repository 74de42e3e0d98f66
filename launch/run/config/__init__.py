"""Settings of a run: of its data, of its speakers, and all sections together."""
