"""Direct preference optimization of an adapter (Eq. 5)."""
