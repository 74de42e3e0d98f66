"""Extracts from a user's message what a scripted chatbot understands: people, feelings, topics, a clause to reflect.

It works on any text, with keywords and swapped pronouns. Independent of the population's hidden traits.
"""

from __future__ import annotations

import re
from functools import lru_cache

from rlenv.core.types import Record
from rlenv.population.reading import act_patterns as P
from rlenv.population.reading.act_patterns import CUES
from rlenv.population.reading.register import spelled_out

MAX_CUE_CHARS = 4000
"""Cues are searched only up to this length, so that no message is slow."""
MAX_CHARS = 2000
"""What a chatbot reflects is searched only up to this length."""
_CLAUSE = re.compile(r"[^.!?\n,;…]+")
_TURN = {"i": "you", "my": "your", "me": "you", "i'm": "you're", "im": "you're", "i've": "you've", "ive": "you've",
         "i'd": "you'd", "i'll": "you'll", "mine": "yours", "myself": "yourself", "am": "are", "dont": "don't",
         "cant": "can't", "its": "it's"}  # fmt: skip


class Heard(Record):
    """What was understood of one message; a field is None if nothing was found."""

    person: str | None = None
    feeling: str | None = None
    topic: str | None = None
    echo: str | None = None


@lru_cache(maxsize=4096)
def hear(text: str) -> Heard:
    """Returns what a chatbot understands of a user's message.

    >>> hear("I feel so ashamed when my boss calls").person
    'your boss'
    """
    text = spelled_out(text[:MAX_CHARS].replace("’", "'"))
    person = P.HEARING["person"].search(text)
    return Heard(
        person=f"your {person.group(1).lower()}" if person else None,
        feeling=next((name for name, p in P.FEELINGS.items() if p.search(text)), None),
        topic=next((name for name, p in P.TOPICS.items() if p.search(text)), None),
        echo=_echo(text),
    )


def _echo(text: str) -> str | None:
    for clause in reversed(_CLAUSE.findall(text)):
        clause = re.sub(r"[^\w' -]", "", clause).strip()
        words = clause.split()
        if 4 <= len(words) <= 13 and P.HEARING["starts"].match(clause) and not P.HEARING["no_echo"].search(clause):
            turned = " ".join(_TURN.get(w.lower(), w) for w in words)
            turned = turned.replace("you was", "you were")
            return turned[0].lower() + turned[1:] if words[0].lower() in _TURN or words[0][0].isupper() else turned
    return None


@lru_cache(maxsize=4096)
def cues_of(text: str) -> frozenset[str]:
    """Returns the names of all cues in a user's message.

    >>> sorted(cues_of("sorry, I have to go now"))
    ['leaving']
    """
    return frozenset(name for name in CUES if has_cue(text, name))


@lru_cache(maxsize=16384)
def has_cue(text: str, name: str) -> bool:
    """Returns whether one cue is in a user's message; there are many, and each takes a search.

    >>> has_cue("sorry, I have to go now", "leaving")
    True
    """
    return CUES[name].search(_searched(text)) is not None


@lru_cache(maxsize=4096)
def _searched(text: str) -> str:
    return spelled_out(text[:MAX_CUE_CHARS].replace("’", "'").strip())
