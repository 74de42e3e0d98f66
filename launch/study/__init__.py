"""``rlenv study``: the paper's experiment on the reference population, where the truth is known."""
