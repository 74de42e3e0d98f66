"""The conversation environment: one core with two seats, and its Gymnasium interfaces. Independent of torch and Ray."""
