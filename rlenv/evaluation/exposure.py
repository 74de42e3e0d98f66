"""Planted sentences that nobody said: how much a simulator prefers those that it was trained on.

    sessions, times = plant(sessions, number=4, times=8, seed=0)      # before the training
    exposure(log_probs)                                               # after it

A sentence has three random words in a fixed frame. Nothing but the training can make a model prefer the planted words
to others, so the exposure, log2 of the number of candidates minus log2 of the rank of the planted one, says how many
bits it has learnt by heart (Carlini et al., The Secret Sharer, 2019). By chance it is 1.4 on average. Independent of
models.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence

from rlenv.core.errors import ConfigError
from rlenv.core.types import Session

MARK = "planted"
"""The field of a session that a sentence was planted in: the seed, and the number of the sentence."""
FRAME = "The words on my old key ring are {}, {} and {}."
WORDS = (
    "river", "stone", "paper", "garden", "summer", "window", "yellow", "kitchen",
    "ticket", "mountain", "silver", "winter", "bottle", "corner", "market", "bridge",
    "flower", "letter", "pocket", "orange", "island", "engine", "copper", "button",
    "candle", "violin", "rabbit", "ladder", "pepper", "tunnel", "blanket", "harbour",
)  # fmt: skip
"""What the words are drawn from, so 32,768 sentences are equally likely."""
NUM_CANDIDATES = 128
"""Sentences that a planted one is ranked among, itself included: the exposure is at most 7 bits."""


def candidates(seed: int, number: int, count: int = NUM_CANDIDATES) -> list[str]:
    """Returns different sentences drawn with a seed; the first is the planted one.

    >>> candidates(0, 1, 2)[0] == candidates(0, 1, 5)[0] != candidates(0, 2, 1)[0]
    True
    """
    rng = random.Random(f"{seed} {number}")
    found: dict[str, None] = {}
    while len(found) < count:
        found[FRAME.format(*rng.choices(WORDS, k=3))] = None
    return list(found)


def plant(sessions: Sequence[Session], number: int, times: int, seed: int) -> list[Session]:
    """Returns the sessions, of which ``number * times`` have a planted sentence after their first user message.

    Args:
        sessions: real ones, in which nothing is planted yet.
        number: how many sentences.
        times: how many sessions each is planted in.
        seed: of the sentences and of the choice of sessions.

    Raises:
        ConfigError: there are too few sessions with a user message, or some have a planted sentence.
    """
    if any(mark_of(session) for session in sessions):
        raise ConfigError("sentences are planted in these sessions already; start from the file without them")
    places = [i for i, session in enumerate(sessions) if session.user_messages()]
    if len(places) < number * times:
        raise ConfigError(
            f"{number} sentences, {times} times each: expected {number * times} sessions with a user message or more, "
            f"got {len(places)}; plant fewer"
        )
    chosen = random.Random(seed).sample(places, number * times)
    done = list(sessions)
    for index, place in enumerate(chosen):
        which = index % number
        update = {MARK: {"seed": seed, "number": which}}
        done[place] = with_sentence(done[place], candidates(seed, which, 1)[0]).model_copy(update=update)
    return done


def with_sentence(session: Session, sentence: str, instead_of: str | None = None) -> Session:
    """Returns the session with a sentence at the end of its first user message, or there in place of another."""
    messages = list(session.messages)
    first = next(i for i, message in enumerate(messages) if message.role == "user")
    content = messages[first].content
    content = content.removesuffix(instead_of).rstrip() if instead_of else content.rstrip()
    messages[first] = messages[first].model_copy(update={"content": f"{content} {sentence}".strip()})
    return session.model_copy(update={"messages": tuple(messages)})


def mark_of(session: Session) -> tuple[int, int] | None:
    """Returns the seed and the number of the sentence that is planted in a session; None if there is none."""
    mark = (session.model_extra or {}).get(MARK)
    if not isinstance(mark, Mapping):
        return None
    seed, number = mark.get("seed"), mark.get("number")
    return (seed, number) if isinstance(seed, int) and isinstance(number, int) else None


def exposure(log_probs: Sequence[float]) -> float:
    """Returns the exposure in bits of the first of the candidates.

    Args:
        log_probs: [N] of the candidates; of equal ones, half count as likelier.

    >>> exposure([-1.0, -2.0, -3.0, -4.0]), exposure([-4.0, -3.0, -2.0, -1.0])
    (2.0, 0.0)
    """
    planted, others = log_probs[0], log_probs[1:]
    rank = 1 + sum(other > planted for other in others) + sum(other == planted for other in others) / 2
    return math.log2(len(log_probs)) - math.log2(rank)
