"""The failure habits of the scripted chatbots: what each writes, and when it can occur.

The wording is in chatbot.yaml; the oracle decides whether a failure is an issue for this user.
"""

from __future__ import annotations

from collections.abc import Mapping

from rlenv.population.chatbots.moves import Speech, competent
from rlenv.population.reading.act_patterns import UNFINISHED
from rlenv.population.reading.hearing import cues_of
from rlenv.population.reading.similarity import sentences
from rlenv.population.wording import pool

_ADDED_QUESTION = frozenset({"dismissal", "self_disclosure", "sycophancy", "diagnosis"})
FAULT_HABITS = frozenset(
    {"dismissal", "wrap_up", "diagnosis", "self_disclosure", "sycophancy", "confusing", "hallucination", "off_topic"}
    | {"cold", "early_advice", "repeat", "duplicate", "incomplete", "blank", "contradiction"}
    | {"ignore_end", "crisis_missed"}
)
_STEADY = {"reflect": 1.0, "validate": 1.0}


def faulty(habits: Mapping[str, float], speech: Speech) -> str | None:
    """Returns a message with a failure of one of the habits, or None if none is drawn.

    Args:
        habits: habit to rate, as in ``ChatbotConfig``.
        speech: the state of the message.
    """
    cues = cues_of(speech.user)
    if speech.turn == 0:
        return None
    if "crisis" in cues:
        return speech.say("ask_feel") if speech.rng.random() < habits.get("crisis_missed", 0.0) else None
    if cues & {"leaving", "goodbye"}:
        return speech.say("fault_ignore_end") if speech.rng.random() < habits.get("ignore_end", 0.0) else None
    for habit, rate in habits.items():
        if habit not in ("crisis_missed", "ignore_end") and speech.rng.random() < rate:
            text = _failure(habit, speech)
            if text is not None:
                return text
    return None


def _failure(habit: str, speech: Speech) -> str | None:
    if habit == "repeat":
        asked = [text for text in speech.own[1:] if text.endswith("?")]
        again = [text for text in asked if asked.count(text) > 1]
        return speech.rng.choice(again or asked[-4:]) if asked else None
    if habit == "duplicate":
        return speech.own[-1] if speech.own else None
    if habit == "incomplete":
        return _cut(competent(_STEADY, 99, speech), speech)
    if habit == "blank":
        return "..."
    if habit == "contradiction":
        return _contradiction(speech)
    if habit == "early_advice" and speech.turn > 6:
        return None
    slots = {
        "disorder": speech.rng.choice(pool("chatbot.yaml", "disorders")),
        "invented": speech.rng.choice(pool("chatbot.yaml", "inventions")),
    }
    text = speech.say(f"fault_{habit}", **slots)
    if habit in _ADDED_QUESTION and speech.rng.random() < 0.5:
        text = f"{text} {speech.say('ask_open')}"
    return text


def _cut(text: str, speech: Speech) -> str:
    words = text.rstrip(".?!").split()
    ends = [i for i, w in enumerate(words) if i >= 3 and w.lower() in UNFINISHED]
    if not ends:
        return "I hear you, and I wonder whether the"
    return " ".join(words[: speech.rng.choice(ends) + 1])


def _contradiction(speech: Speech) -> str | None:
    if not speech.advised:
        return None
    advised = sentences(speech.advised)[-1].rstrip(".?").lower()
    for lead in ("maybe you could ", "you could try to ", "you could ", "is to "):
        if lead in advised:
            return speech.say("fault_contradiction", advised=advised.split(lead, 1)[1])
    return None
