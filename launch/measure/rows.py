"""The longest rows that a phase may meet, made of one repeated word: sessions, pairs and alternatives of given lengths.

What is said in them does not matter to memory. Independent of plans and processes.
"""

from __future__ import annotations

from rlenv.core.errors import ConfigError
from rlenv.core.types import ROLE_OF_SEAT, Alternatives, Message, PreferencePair, Role, Seat, Session
from rlenv.discriminator.labelled import LabelledSession
from rlenv.prompting.chat_format import ChatFormat
from trainers.sft.config import SftExample

WORD = "a"
ROOM = 64
"""The fewest tokens of a row: room for a chat template and some words."""


def text_of(chat: ChatFormat, tokens: int) -> str:
    """Returns a text of at most ``tokens`` tokens, at least 1, and nearly as many."""
    words = max(1, tokens)
    while words > 1 and (found := len(chat.encode(" ".join([WORD] * words)))) > tokens:
        words = min(words - 1, words * tokens // found)
    return " ".join([WORD] * max(1, words))


def sft_examples(chat: ChatFormat, tokens: int, count: int, seat: Seat, share: float) -> list[SftExample]:
    """Returns ``count`` sessions whose training rows have nearly ``tokens`` tokens.

    Args:
        chat: the model's chat template.
        tokens: of a row, at most.
        count: number of sessions.
        seat: whose messages are trained, ``user`` or ``chatbot``.
        share: of the tokens, that this seat says.
    """
    own: Role = ROLE_OF_SEAT[seat]
    other: Role = "assistant" if own == "user" else "user"
    least = len(chat.training_example("", _messages(own, other, WORD, WORD), seat)[0])
    room = _room(tokens, least)
    size = round(room * share)
    messages = _messages(own, other, text_of(chat, size), text_of(chat, room - size) if share < 1 else WORD)
    return [SftExample(session_id=f"s{i}", system="", messages=messages, seat=seat) for i in range(count)]


def labelled_sessions(chat: ChatFormat, tokens: int, count: int, first: int = 0) -> list[LabelledSession]:
    """Returns ``count`` sessions of nearly ``tokens`` tokens without a context, every other one real."""
    least = len(chat.training_example("", (Message(role="user", content=WORD),), "user")[0])
    messages = (Message(role="user", content=text_of(chat, _room(tokens, least + 8))),)
    return [
        LabelledSession(
            context_id=f"c{(first + i) // 2}",
            real=i % 2 == 0,
            session=Session(session_id=f"s{first + i}", messages=messages),
        )
        for i in range(count)
    ]


def pairs(tokens: int, reply: int, count: int) -> list[PreferencePair]:
    """Returns ``count`` pairs of different prompts, which have ``tokens`` tokens with a reply and ``reply`` of them."""
    reply = min(reply, tokens // 2)
    return [
        PreferencePair(
            prompt="",
            chosen="",
            rejected="",
            prompt_ids=(10 + i,) + (5,) * (tokens - reply - 1),
            chosen_ids=(6,) * reply,
            rejected_ids=(7,) * reply,
            reward_chosen=1.0,
            reward_rejected=-1.0,
            session_id=f"s{i}",
            turn=1,
            critical="highest",
            simulator="base",
        )
        for i in range(count)
    ]


def alternatives(tokens: int, reply: int, turns: int, each: int, count: int) -> list[Alternatives]:
    """Returns the alternatives of ``count`` sessions of ``tokens`` tokens: ``each`` at each of ``turns`` turns."""
    reply = min(reply, tokens // 2)
    return [
        Alternatives(
            session_id=f"s{i}",
            turn=turn + 1,
            critical="drawn",
            simulator="base",
            prompt_ids=(10 + i,) + (5,) * (tokens - reply - 1),
            replies_ids=((6,) * reply,) * each,
            rewards=tuple(float(k) for k in range(each)),
        )
        for i in range(count)
        for turn in range(turns)
    ]


def _room(tokens: int, taken: int) -> int:
    if tokens < max(ROOM, taken + 2):
        raise ConfigError(f"--tokens {tokens}: a row needs at least {max(ROOM, taken + 2)} tokens")
    return tokens - taken


def _messages(own: Role, other: Role, said: str, heard: str) -> tuple[Message, ...]:
    return Message(role=other, content=heard), Message(role=own, content=said)
