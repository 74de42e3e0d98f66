"""rlenv: conversations as a reinforcement-learning environment, with users that are trained to be real."""

import gymnasium as gym

from rlenv.env.providers import register_provider

if "rlenv/Conversation-v0" not in gym.registry:
    _ONE, _MANY = "rlenv.env.gym:ConversationEnv", "rlenv.env.vector:ConversationVectorEnv"
    gym.register(id="rlenv/Conversation-v0", entry_point=_ONE, vector_entry_point=_MANY)
    gym.register(id="rlenv/User-v0", entry_point=_ONE, vector_entry_point=_MANY, kwargs={"seat": "user"})

register_provider("population", "rlenv.population.scenarios:population_parts")
