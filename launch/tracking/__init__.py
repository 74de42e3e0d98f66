"""Where a run's metrics go: JSON lines, Weights & Biases, TensorBoard."""
