"""The conversation environment: one core with two seats, and its Gymnasium faces. Knows neither torch nor Ray."""
