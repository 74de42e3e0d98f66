"""What a user's message shows, read from its text alone: wants to leave, is annoyed, is at risk, corrects ...

For chatbots that must understand any person, and for labelling conversations whose user keeps no hidden state.
"""

from __future__ import annotations

from functools import lru_cache

from rlenv.population.act_patterns import CUES
from rlenv.population.register import spelled_out

MAX_CHARS = 4000
"""Longer messages are read up to here, so that none is slow."""


@lru_cache(maxsize=4096)
def cues_of(text: str) -> frozenset[str]:
    """Returns the names of all cues that the message shows.

    >>> sorted(cues_of("sorry, I have to go now"))
    ['leaving']
    """
    text = spelled_out(text[:MAX_CHARS].replace("’", "'").strip())
    return frozenset(name for name, pattern in CUES.items() if pattern.search(text))
