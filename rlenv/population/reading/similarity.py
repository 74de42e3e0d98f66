"""Measures the similarity of messages by their content words, to find repeated questions and invented facts."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from rlenv.population.reading.act_patterns import STOP

MAX_CHARS = 4000
_WORD = re.compile(r"\w+(?:'\w+)?")
_SENTENCE = re.compile(r"[^.!?\n]+[.!?]?")
_ENDINGS = ("ing", "edly", "ness", "ies", "ed", "es", "ly", "s")


@lru_cache(maxsize=16384)
def stem(word: str) -> str:
    """Returns a rough stem, the same for "worries" and "worried".

    >>> stem("fights"), stem("worried")
    ('fight', 'worri')
    """
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            word = word[: -len(ending)]
            break
    return word.rstrip("e")[:7] if len(word) > 3 else word


@lru_cache(maxsize=16384)
def content(text: str) -> frozenset[str]:
    """Returns the stems of the content words."""
    words = _WORD.findall(text[:MAX_CHARS].lower().replace("’", "'"))
    return frozenset(stem(w.removesuffix("'s")) for w in words if w not in STOP)


@lru_cache(maxsize=16384)
def all_words(text: str) -> frozenset[str]:
    """Returns the set of words, in lower case."""
    return frozenset(_WORD.findall(text[:MAX_CHARS].lower().replace("’", "'")))


@lru_cache(maxsize=8192)
def sentences(text: str) -> tuple[str, ...]:
    """Returns the sentences of a message, with their closing marks."""
    return tuple(s for s in (m.strip() for m in _SENTENCE.findall(text[:MAX_CHARS])) if s)


def likeness(a: frozenset[str], b: frozenset[str]) -> float:
    """Returns the Jaccard index of two word sets, in [0, 1]; 0 if either is empty."""
    return len(a & b) / len(a | b) if a and b else 0.0


def share_known(words: frozenset[str], known: Iterable[frozenset[str]]) -> float:
    """Returns the share of ``words`` that occurs in any set of ``known``, in [0, 1]; 1 without words."""
    if not words:
        return 1.0
    pool: set[str] = set().union(*known)
    return len(words & pool) / len(words)
