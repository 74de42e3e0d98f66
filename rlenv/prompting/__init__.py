"""Builds what a model reads: the user context of Appendix A, cut to a budget, and prompts from a chat template."""
