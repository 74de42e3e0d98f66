"""Training a chatbot against the simulators of a run, and its report."""
