"""rlenv: conversations as a reinforcement-learning environment, with users that are trained to be real."""

import gymnasium as gym

if "rlenv/Conversation-v0" not in gym.registry:
    gym.register(id="rlenv/Conversation-v0", entry_point="rlenv.gym_env:ConversationEnv")
    gym.register(id="rlenv/User-v0", entry_point="rlenv.gym_env:ConversationEnv", kwargs={"seat": "user"})
