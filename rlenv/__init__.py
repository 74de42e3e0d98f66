"""rlenv: conversations as a reinforcement-learning environment, with users that are trained to be real.

    import rlenv

    env = rlenv.ConversationEnv(reward=rlenv.make_reward({"user_actions": 1.0}))

The names in ``__all__`` are the public API; everything else may move between versions. Each is imported when it is
first asked for, so ``import rlenv`` loads no model library; it registers the Gymnasium ids "rlenv/Conversation-v0"
(the agent is the chatbot) and "rlenv/User-v0" (the agent is the user).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

import gymnasium as _gymnasium

from rlenv.env.providers import register_provider as _register_provider
from rlenv.version import __version__

if TYPE_CHECKING:
    from rlenv.core.errors import ConfigError, DataError, EngineError, OverlongError, PhaseError, Problem, RlenvError
    from rlenv.core.log_odds import turn_rewards
    from rlenv.core.protocols import ChatbotPolicy, Discriminator, Engine, Judge, Reward, Speaker, UserSimulator
    from rlenv.core.types import (
        Annotation,
        ConversationState,
        Message,
        PreferencePair,
        Sampling,
        Session,
        SessionContext,
        Utterance,
    )
    from rlenv.data.sessions import read_sessions, split_by_user, write_sessions
    from rlenv.env.collect import Collected, Episode, collect, in_order
    from rlenv.env.conversation import Limits, to_session
    from rlenv.env.core import ConversationCore
    from rlenv.env.ensemble import Ensemble
    from rlenv.env.gym import ConversationEnv, EnvError
    from rlenv.env.scenarios import Scenario
    from rlenv.env.vector import ConversationVectorEnv
    from rlenv.learning.preferences import PreferencesConfig, build_preferences, critical_turns
    from rlenv.population.chatbots.scripted import make_chatbot
    from rlenv.population.corpus import generate_sessions
    from rlenv.population.scenarios import population_counterparts, population_scenarios
    from rlenv.population.users.user import PopulationUser
    from rlenv.rewards.registry import make_reward, register_reward

_NAMES = {
    "rlenv.core.errors": "ConfigError DataError EngineError OverlongError PhaseError Problem RlenvError",
    "rlenv.core.log_odds": "turn_rewards",
    "rlenv.core.protocols": "ChatbotPolicy Discriminator Engine Judge Reward Speaker UserSimulator",
    "rlenv.core.types": "Annotation ConversationState Message PreferencePair Sampling Session SessionContext Utterance",
    "rlenv.data.sessions": "read_sessions split_by_user write_sessions",
    "rlenv.env.collect": "Collected Episode collect in_order",
    "rlenv.env.conversation": "Limits to_session",
    "rlenv.env.core": "ConversationCore",
    "rlenv.env.ensemble": "Ensemble",
    "rlenv.env.gym": "ConversationEnv EnvError",
    "rlenv.env.scenarios": "Scenario",
    "rlenv.env.vector": "ConversationVectorEnv",
    "rlenv.learning.preferences": "PreferencesConfig build_preferences critical_turns",
    "rlenv.population.chatbots.scripted": "make_chatbot",
    "rlenv.population.corpus": "generate_sessions",
    "rlenv.population.scenarios": "population_counterparts population_scenarios",
    "rlenv.population.users.user": "PopulationUser",
    "rlenv.rewards.registry": "make_reward register_reward",
}
"""Module to its public names; the imports above say the same to type checkers."""
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names.split()}

__all__ = [
    "Annotation",
    "ChatbotPolicy",
    "Collected",
    "ConfigError",
    "ConversationCore",
    "ConversationEnv",
    "ConversationState",
    "ConversationVectorEnv",
    "DataError",
    "Discriminator",
    "Engine",
    "EngineError",
    "Ensemble",
    "EnvError",
    "Episode",
    "Judge",
    "Limits",
    "Message",
    "OverlongError",
    "PhaseError",
    "PopulationUser",
    "PreferencePair",
    "PreferencesConfig",
    "Problem",
    "Reward",
    "RlenvError",
    "Sampling",
    "Scenario",
    "Session",
    "SessionContext",
    "Speaker",
    "UserSimulator",
    "Utterance",
    "__version__",
    "build_preferences",
    "collect",
    "critical_turns",
    "generate_sessions",
    "in_order",
    "make_chatbot",
    "make_reward",
    "population_counterparts",
    "population_scenarios",
    "read_sessions",
    "register_reward",
    "split_by_user",
    "to_session",
    "turn_rewards",
    "write_sessions",
]


if not TYPE_CHECKING:  # else a type checker would accept any name

    def __getattr__(name: str) -> Any:
        """Returns a name of the public API, imported when it is first asked for (PEP 562)."""
        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(_MODULE_OF[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


_ONE, _MANY = "rlenv.env.gym:ConversationEnv", "rlenv.env.vector:ConversationVectorEnv"
if "rlenv/Conversation-v0" not in _gymnasium.registry:
    _gymnasium.register(id="rlenv/Conversation-v0", entry_point=_ONE, vector_entry_point=_MANY)
    _gymnasium.register(id="rlenv/User-v0", entry_point=_ONE, vector_entry_point=_MANY, kwargs={"seat": "user"})

_register_provider("population", "rlenv.population.scenarios:population_parts")
