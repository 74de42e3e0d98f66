"""Algorithm 1 and its phases."""
