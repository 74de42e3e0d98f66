"""Labelled samples: sessions of the population with planted faults or planted personal data."""
