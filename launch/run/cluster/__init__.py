"""The Ray cluster of a driver."""
