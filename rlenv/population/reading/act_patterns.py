"""The compiled expressions of patterns.yaml, by which ``acts`` and ``cues`` read any text. Data, no judgement."""

from __future__ import annotations

import re

from rlenv.population.wording import load

_DATA = load("patterns.yaml")


def _compiled(section: str, flags: re.RegexFlag = re.IGNORECASE) -> dict[str, re.Pattern[str]]:
    found = {}
    for name, lines in _DATA[section].items():
        pattern = lines.replace("\n", "|")
        for part, text in _DATA["parts"].items():
            pattern = pattern.replace(f"{{{part}}}", text)
        found[name] = re.compile(pattern, flags)
    return found


ACTS = _compiled("acts")
"""Acts that one sentence performs, and a few helpers of the same kind."""
FORMS = _compiled("forms")
"""Forms of sentences and whole messages."""
ASKED = _compiled("asked")
"""What a question is after, most specific first."""
CUES = _compiled("cues", re.IGNORECASE | re.DOTALL)
"""What a user's message shows."""
FEELINGS = _compiled("feelings")
TOPICS = _compiled("topics")
"""What a user feels and what it is about, for chatbots that listen."""
HEARING = _compiled("hearing")
"""People, and clauses that can be given back."""
UNFINISHED = frozenset(_DATA["words"]["unfinished"].split())
"""Words on which no finished sentence ends."""
COUNSELLING = _DATA["words"]["counselling"]
"""Words of the trade, beside those of the wording, that a message can be about."""
STOP = frozenset(_DATA["words"]["stop"].split())
"""Words that say nothing about the content."""
