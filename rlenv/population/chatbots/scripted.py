"""Scripted support chatbots: a competent counsellor core with known failure habits, each at a known rate.

``ScriptedChatbot`` implements ``rlenv.core.protocols.ChatbotPolicy``. It understands any text through keyword slots. It
does not label itself: what was wrong with a message is for ``rlenv.population.oracle`` to say.
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
    """One chatbot: its manner and its failure habits."""

    name: str
    moves: dict[str, float]
    """Weights of reflect, validate, inform and bare (a question alone)."""
    early: int
    """The user turn from which it suggests things unasked."""
    habits: dict[str, float]
    """Failure habit to rate per message, in [0, 1]; ``ignore_end`` and ``crisis_missed`` per occasion."""


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
        habits: rates that differ from its own: a variant of it, as the treatment of an A/B test is.
        as_name: what the variant is called; None is ``name``.

    Raises:
        ValueError: there is none of that name, or no such habit.
    """
    if name not in _configs():
        raise ValueError(f"no scripted chatbot {name!r}; there are {', '.join(chatbot_names())}")
    own = _configs()[name]
    return ScriptedChatbot(own.model_copy(update={"name": as_name or name, "habits": {**own.habits, **(habits or {})}}))


class ScriptedChatbot:
    """A chatbot of one configuration.

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
        """Returns who this is."""
        return SpeakerCard(name=self.name, kind="population", version=rlenv_version())

    async def reply(self, state: ConversationState, seed: int) -> Utterance:
        """Returns the chatbot's next message; it leaves the ending of sessions to the user."""
        rng = Random(derive_seed("population-chatbot", self.name, seed, len(state.turns)))
        speech = Speech.before(state, rng)
        text = faulty(self.config.habits, speech) or competent(self.config.moves, self.config.early, speech)
        return Utterance(text=text, memory=speech.memory())
