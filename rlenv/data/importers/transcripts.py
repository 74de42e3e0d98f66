"""Chats that are one text: with the marks of a chat template, or with a speaker's name before each message."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping
from itertools import pairwise
from typing import Any, NamedTuple

TEMPLATES = tuple(
    re.compile(pattern, re.DOTALL)
    for pattern in (
        r"<\|im_start\|>\s*(\w+)\s*\n(.*?)(?=<\|im_end\|>|<\|im_start\|>|\Z)",
        r"<\|start_header_id\|>(\w+)<\|end_header_id\|>(.*?)(?=<\|eot_id\|>|<\|start_header_id\|>|\Z)",
        r"<start_of_turn>(\w+)\n(.*?)(?=<end_of_turn>|<start_of_turn>|\Z)",
        r"<\|(system|user|assistant)\|>(.*?)(?=</s>|<\|end\|>|<\|(?:system|user|assistant)\|>|\Z)",
    )
)
"""Chat templates: a role and what it says."""
INST = re.compile(r"\[INST\](.*?)\[/INST\](.*?)(?=</s>|<s>|\[INST\]|\Z)", re.DOTALL)
INST_SYSTEM = re.compile(r"<<SYS>>.*?<</SYS>>", re.DOTALL)
ANY_LABEL = re.compile(r"^[ \t]*([A-Z][\w.]*(?: [\w.]+)?)[ \t]*:", re.MULTILINE)

Messages = list[dict[str, Any]]


def read_text(text: str, roles: Mapping[str, str], not_said: Collection[str]) -> Messages | None:
    """Returns the messages of a text with the marks of a chat template, or with speakers' names before a colon.

    Args:
        text: the chat.
        roles: names of speakers, in lower case or as given, to "user" or "assistant".
        not_said: names of speakers whose messages are left out later.

    Returns:
        The messages, each with the role as it is called there; None for a text of neither kind.
    """
    if pairs := INST.findall(text):
        both = [(("user", INST_SYSTEM.sub("", asked)), ("assistant", answered)) for asked, answered in pairs]
        return _said(side for each in both for side in each)
    for template in TEMPLATES:
        if found := template.findall(text):
            return _said(found)
    labels = _labels(text, roles, not_said)
    if len(labels) < 2 or text[: labels[0].begin].strip():
        return None
    ends = [label.begin for label in labels[1:]] + [len(text)]
    return _said((label.name, text[label.end : end]) for label, end in zip(labels, ends, strict=True))


class _Label(NamedTuple):
    """A speaker's name before a colon, at the beginning of a line."""

    begin: int
    end: int
    name: str


def _labels(text: str, roles: Mapping[str, str], not_said: Collection[str]) -> list[_Label]:
    """Returns the labels of a text, those of speakers that the caller does not know too, so that they are refused.

    Any line may begin with words and a colon ("My boss: the worst"). They are a speaker's where someone would otherwise
    speak twice in a row; where no speaker is known, those that recur are.
    """
    names = "|".join(sorted(map(re.escape, {*roles, *not_said}), key=len, reverse=True))
    pattern = rf"(?:<\s*({names})\s*>|^[ \t]*[\[*#]*({names})[\]*]*)[ \t]*:[*]*"
    matches = re.finditer(pattern, text, re.IGNORECASE | re.MULTILINE)
    sure = [_Label(match.start(), match.end(), match[1] or match[2]) for match in matches]
    begins = {label.begin for label in sure}
    others = [_Label(m.start(), m.end(), m[1]) for m in ANY_LABEL.finditer(text) if m.start() not in begins]
    if not sure:
        counts = Counter(label.name for label in others)
        sure = [label for label in others if counts[label.name] > 1]
        others = [label for label in others if counts[label.name] == 1]

    def seat(label: _Label) -> str:
        return roles.get(label.name, roles.get(label.name.lower(), label.name))

    found: set[str] = set()
    for before, after in pairwise(sure):
        if seat(before) == seat(after):
            found.update(label.name for label in others if before.end <= label.begin < after.begin)
    return sorted([*sure, *(label for label in others if label.name in found)])


def _said(parts: Any) -> Messages:
    return [{"role": role, "content": content.strip()} for role, content in parts if content.strip()]
