"""Writes the next message of a competent scripted counsellor: it reflects, validates, asks, informs, suggests, repairs.

``Speech`` is the state of a chatbot message that is being written. Failure habits are in
``rlenv.population.chatbots.faults``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random

from rlenv.core.types import ConversationState
from rlenv.population.grammar import render
from rlenv.population.reading.hearing import Heard, cues_of, hear
from rlenv.population.wording import pool

_SUGGESTIONS = {"sleep": "suggest_sleep", "work": "suggest_work", "panic": "suggest_panic", "money": "suggest_money"}
_INFORMS = {
    "angry": "angry", "frustrated": "angry", "your temper": "angry", "anxious": "anxious", "afraid": "anxious",
    "panic": "anxious", "being around people": "anxious", "lonely": "lonely", "sleep": "sleep", "tired": "sleep",
    "sad": "sad", "the loss": "sad", "the break-up": "sad", "empty": "sad", "guilty": "guilty", "ashamed": "guilty",
}  # fmt: skip
_QUESTIONS = (
    ("ask_event", "ask_feel", "ask_open", "ask_history"),
    ("ask_effect", "ask_person", "ask_tried", "ask_thought", "ask_feel", "ask_open"),
    ("ask_wish", "ask_worry", "ask_good", "ask_person", "ask_thought", "ask_open"),
)
_COMPLAINTS = frozenset(
    {"repeats", "corrects", "ignored", "angry", "cold", "hurt", "contradicts", "flattered", "diagnosed", "not_done"}
    | {"cut_off", "nothing_came", "twice"}
)


@dataclass
class Speech:
    """State of a chatbot message being written: earlier messages, what was understood, and the lines already used."""

    rng: Random
    user: str
    """The user's last message, or an empty text."""
    turn: int
    """Number of user messages so far."""
    own: list[str]
    """The chatbot's earlier messages."""
    session: int
    used: list[str] = field(default_factory=list)
    person: str | None = None
    """The last person whom the user mentioned."""
    topic: str | None = None
    advised: str | None = None
    """The chatbot's last suggestion."""

    @classmethod
    def before(cls, state: ConversationState, rng: Random) -> Speech:
        """Returns the state of the next message of a conversation."""
        memory = state.chatbot_memory or {}
        users = [t.utterance.text for t in state.turns if t.role == "user"]
        own = [t.utterance.text for t in state.turns if t.role == "assistant"]
        speech = cls(
            rng=rng,
            user=users[-1] if users else "",
            turn=len(users),
            own=own,
            session=len(state.context.previous_summaries),
            used=list(memory.get("used", ())),
            person=memory.get("person"),
            topic=memory.get("topic"),
            advised=memory.get("advised"),
        )
        speech.person = speech.heard.person or speech.person
        speech.topic = speech.heard.topic or speech.topic
        return speech

    @property
    def heard(self) -> Heard:
        return hear(self.user)

    def memory(self) -> dict[str, object]:
        """Returns what the chatbot remembers for its next message."""
        return {"used": self.used, "person": self.person, "topic": self.topic, "advised": self.advised}

    def say(self, name: str, **slots: str) -> str:
        """Returns a line of a pool of chatbot.yaml, an unused one if there is any."""
        lines = pool("chatbot.yaml", name)
        free = [i for i in range(len(lines)) if f"{name}:{i}" not in self.used] or list(range(len(lines)))
        index = self.rng.choice(free)
        self.used.append(f"{name}:{index}")
        known = {"person": self.person or "the people around you", "topic": self.topic or "all this", **slots}
        return render(lines[index], self.rng, known.__getitem__)

    def spent(self, name: str) -> bool:
        """Returns whether all lines of a pool have been used."""
        return all(f"{name}:{i}" in self.used for i in range(len(pool("chatbot.yaml", name))))


def competent(moves: Mapping[str, float], early: int, speech: Speech) -> str:
    """Returns a message without failures.

    Args:
        moves: weights of reflect, validate, inform and bare.
        early: the user turn from which it gives unrequested suggestions.
        speech: the state of the message.
    """
    if speech.turn == 0:
        return speech.say("greet_again" if speech.session else "greet")
    cues = cues_of(speech.user)
    if "crisis" in cues:
        return speech.say("crisis")
    if cues & {"leaving", "goodbye"}:
        return speech.say("bye")
    if "asks_bot" in cues or "not_human" in cues:
        return speech.say("about_me") if not speech.spent("about_me") else speech.say("repair")
    if "confused" in cues and not speech.spent("explain"):
        return speech.say("explain")
    if "wants_no_advice" in cues and not speech.spent("agree_more"):
        return speech.say("agree_more")
    if cues & _COMPLAINTS and not speech.spent("repair"):
        return speech.say("repair")
    wants = "asks_advice" in cues
    if (wants or speech.turn >= early) and speech.rng.random() < (0.8 if wants else 0.3):
        return _suggest(speech)
    if (
        speech.turn <= 2
        and len(speech.user.split()) <= 6
        and speech.heard == hear("")
        and not speech.spent("ask_start")
    ):
        return speech.say("ask_start")
    return _explore(moves, speech)


def _suggest(speech: Speech) -> str:
    name = _SUGGESTIONS.get(speech.heard.topic or "", "suggest")
    if name == "suggest" and speech.heard.person and speech.rng.random() < 0.6:
        name = "suggest_person"
    if speech.spent(name):
        name = "suggest"
    if speech.spent(name):
        return _explore({"validate": 1.0}, speech)
    text = speech.say(name)
    speech.advised = text
    lead = f"{speech.say('validate')} " if speech.rng.random() < 0.4 and not speech.spent("validate") else ""
    return lead + text


def _explore(moves: Mapping[str, float], speech: Speech) -> str:
    names = list(moves)
    move = speech.rng.choices(names, [moves[n] for n in names])[0]
    lead = ""
    if move == "reflect":
        lead = _reflection(speech)
    elif move == "inform":
        lead = _information(speech)
    if not lead and move != "bare" and not speech.spent("validate"):
        lead = speech.say("affirm" if speech.turn > 5 and speech.rng.random() < 0.2 else "validate")
    if lead and move == "reflect" and speech.rng.random() < 0.2:
        return lead
    return f"{lead} {_question(speech)}".strip()


def _information(speech: Speech) -> str:
    heard = speech.heard
    for about in (heard.feeling, heard.topic):
        name = f"inform_{_INFORMS.get(about or '', '')}"
        if name != "inform_" and not speech.spent(name):
            return speech.say(name)
    return "" if speech.spent("inform") else speech.say("inform")


def _reflection(speech: Speech) -> str:
    heard = speech.heard
    options = []
    if heard.echo:
        options += ["reflect_echo"] * 3
    options += [f"reflect_{part}" for part in ("feeling", "person", "topic") if getattr(heard, part)]
    options = [name for name in options if not speech.spent(name)]
    if not options:
        return ""
    return speech.say(speech.rng.choice(options), echo=heard.echo or "", feeling=heard.feeling or "")


def _question(speech: Speech) -> str:
    stage = min(2, (speech.turn - 1) // 4)
    for names in (_QUESTIONS[stage], *_QUESTIONS):
        free = [name for name in names if not speech.spent(name)]
        if free:
            return speech.say(speech.rng.choice(free))
    return ""
