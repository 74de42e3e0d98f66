"""Reinforcement learning of the chatbot, on TRL's GRPOTrainer."""
