"""Scripted support chatbots: a competent counsellor with known failure habits, each at a known rate.

``ScriptedChatbot`` implements ``rlenv.core.protocols.ChatbotPolicy``. It understands any text through keywords. It does
not label its own messages; ``rlenv.population.oracle`` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from random import Random

import yaml

from rlenv.core.seeds import derive_seed
from rlenv.core.types import ConversationState, Record, Utterance
from rlenv.env.provenance import SpeakerCard, rlenv_version
from rlenv.population.chatbots.faults import FAULT_HABITS, faulty
from rlenv.population.chatbots.moves import Speech, competent


class ChatbotConfig(Record):
    """A chatbot's manner and failure habits."""

    name: str
    moves: dict[str, float]
    """Weights of reflect, validate, inform and bare (only a question)."""
    early: int
    """The user turn from which it gives unrequested suggestions."""
    habits: dict[str, float]
    """Failure habit to rate per message, in [0, 1]; for ``ignore_end`` and ``crisis_missed``, per occasion."""


@cache
def _configs() -> dict[str, ChatbotConfig]:
    data = yaml.safe_load((files("rlenv.population.chatbots") / "chatbots.yaml").read_text("utf-8"))
    return {name: ChatbotConfig(name=name, **fields) for name, fields in data.items()}


def chatbot_names() -> tuple[str, ...]:
    """Returns the names of all scripted chatbots."""
    return tuple(_configs())


def make_chatbot(name: str, habits: Mapping[str, float] | None = None, as_name: str | None = None) -> ScriptedChatbot:
    """Returns a scripted chatbot by name.

    Args:
        name: one of ``chatbot_names()``.
        habits: rates that replace its own, for a variant such as the treatment of an A/B test.
        as_name: name of the variant; None means ``name``.

    Raises:
        ValueError: unknown name or habit.
    """
    if name not in _configs():
        raise ValueError(f"no scripted chatbot {name!r}; there are {', '.join(chatbot_names())}")
    own = _configs()[name]
    return ScriptedChatbot(own.model_copy(update={"name": as_name or name, "habits": {**own.habits, **(habits or {})}}))


class ScriptedChatbot:
    """A scripted chatbot; implements ``ChatbotPolicy``.

    Args:
        config: its manner and habits.
    """

    def __init__(self, config: ChatbotConfig) -> None:
        unknown = set(config.habits) - FAULT_HABITS
        if unknown:
            raise ValueError(
                f"chatbot {config.name}: unknown habits {sorted(unknown)}; there are {sorted(FAULT_HABITS)}"
            )
        self.name = config.name
        self.config = config

    def describe(self) -> SpeakerCard:
        """Returns the chatbot's description for the provenance."""
        return SpeakerCard(name=self.name, kind="population", version=rlenv_version())

    async def reply(self, state: ConversationState, seed: int) -> Utterance:
        """Returns the chatbot's next message; it never ends the session itself."""
        rng = Random(derive_seed("population-chatbot", self.name, seed, len(state.turns)))
        speech = Speech.before(state, rng)
        text = faulty(self.config.habits, speech) or competent(self.config.moves, self.config.early, speech)
        return Utterance(text=text, memory=speech.memory())
