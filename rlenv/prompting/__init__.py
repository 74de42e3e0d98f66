"""What a model reads: the context of Appendix A, its cutting, and a chat template taken apart."""
