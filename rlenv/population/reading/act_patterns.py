"""Compiles the regular expressions of patterns.yaml, which recognise acts and cues in any text."""

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
"""Acts of a single sentence, and a few helper patterns."""
FORMS = _compiled("forms")
"""Forms of sentences and whole messages."""
ASKED = _compiled("asked")
"""What a question asks for, most specific first."""
CUES = _compiled("cues", re.IGNORECASE | re.DOTALL)
"""Cues in a user's message."""
FEELINGS = _compiled("feelings")
TOPICS = _compiled("topics")
"""The user's feelings and topics, for the scripted chatbots."""
HEARING = _compiled("hearing")
"""People, and clauses that can be reflected."""
UNFINISHED = frozenset(_DATA["words"]["unfinished"].split())
"""Words that cannot end a complete sentence."""
COUNSELLING = _DATA["words"]["counselling"]
"""Words of counselling that a message can be about, besides those of the wording files."""
STOP = frozenset(_DATA["words"]["stop"].split())
"""Words without content."""
