"""Algorithm 1 and its phases, from files to files."""
