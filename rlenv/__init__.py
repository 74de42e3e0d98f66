"""rlenv: conversations as a reinforcement-learning environment, with users that are trained to be real."""

import gymnasium as gym

if "rlenv/Conversation-v0" not in gym.registry:
    _ONE, _MANY = "rlenv.gym_env:ConversationEnv", "rlenv.vector_env:ConversationVectorEnv"
    gym.register(id="rlenv/Conversation-v0", entry_point=_ONE, vector_entry_point=_MANY)
    gym.register(id="rlenv/User-v0", entry_point=_ONE, vector_entry_point=_MANY, kwargs={"seat": "user"})
