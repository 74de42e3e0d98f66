"""rlenv: conversations as a reinforcement-learning environment, with users that are trained to be real."""

import gymnasium as gym

if "rlenv/Conversation-v0" not in gym.registry:
    _ENTRY_POINTS = {
        "entry_point": "rlenv.gym_env:ConversationEnv",
        "vector_entry_point": "rlenv.vector_env:ConversationVectorEnv",
    }
    gym.register(id="rlenv/Conversation-v0", **_ENTRY_POINTS)
    gym.register(id="rlenv/User-v0", kwargs={"seat": "user"}, **_ENTRY_POINTS)
