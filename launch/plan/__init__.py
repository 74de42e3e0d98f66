"""``rlenv plan``: what a run needs of GPUs, memory and time, from its settings and the shapes of its models alone."""
