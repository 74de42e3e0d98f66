"""Splits a session's context into items: in reading order, each with the rank by which it is kept.

Independent of tokens and budgets; ``rlenv.prompting.context`` does the cutting.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Literal

from rlenv.core.types import SessionContext
from rlenv.prompting.cutting import encodable

PartName = Literal[
    "instruction", "profile", "long_term_context", "previous_summaries", "current_summary", "recent_messages"
]

HEADINGS: dict[PartName, str] = {
    "instruction": "",
    "profile": "## Profile",
    "long_term_context": "## Long term",
    "previous_summaries": "## Earlier sessions, latest last",
    "current_summary": "## This session",
    "recent_messages": "## Recent messages",
}
SPEAKERS = {"user": "User: ", "assistant": "Chatbot: "}


@dataclass(frozen=True)
class Item:
    """The smallest unit that is kept or dropped."""

    part: PartName
    text: str
    what: str
    """Name for the report of dropped items; without content."""
    rank: tuple[int, int]
    """Items are kept in ascending order of rank."""
    position: int = 0
    """Index among all items, in reading order."""
    label: str = ""
    """Text before ``text`` in the same line."""
    group: str = ""
    """Heading line above all items of one group."""
    age: int = 0
    """0 is the newest summary or message."""

    @property
    def line(self) -> str:
        return f"{self.label}{self.text}\n"

    @property
    def heading(self) -> str:
        return HEADINGS[self.part]

    def with_text(self, text: str) -> Item:
        """Returns the item with another text."""
        return replace(self, text=text)

    def cut_off(self) -> Item:
        """Returns an item for the report that stands for the part that was cut off this one."""
        side = "start" if self.part == "recent_messages" else "end"
        what = "a message" if self.part == "recent_messages" else self.what
        return replace(self, what=f"{side} of {what}")


def collect_items(context: SessionContext, instruction: str, profile_fields: Sequence[str]) -> list[Item]:
    """Returns the non-empty items of the six parts of Appendix A, in its order."""
    items = [
        Item("instruction", instruction, "instruction", (0, 0)),
        Item("profile", context.profile or "", "profile", (2, 1)),
        Item("profile", context.situation or "", "situation", (2, 0), label="Situation: "),
        *_fields(context, profile_fields),
        Item("long_term_context", context.long_term_context or "", "long-term context", (5, 0)),
        *_summaries(context),
        Item("current_summary", context.current_summary or "", "current summary", (1, 0)),
        *_messages(context),
    ]
    items = [item.with_text(encodable(item.text).strip()) for item in items]
    return [replace(item, position=i) for i, item in enumerate(items) if item.text]


def render(items: Sequence[Item]) -> list[tuple[PartName, str]]:
    """Returns (part, text with heading) for every part that has items, in reading order."""
    parts = []
    for part, members in groupby(items, key=lambda item: item.part):
        lines = [HEADINGS[part]] if HEADINGS[part] else []
        for group, grouped in groupby(members, key=lambda item: item.group):
            lines += ([group] if group else []) + [item.line[:-1] for item in grouped]
        parts.append((part, "\n".join(lines)))
    return parts


def _fields(context: SessionContext, names: Sequence[str]) -> list[Item]:
    extra = context.model_extra or {}
    return [
        Item("profile", _plain(extra.get(name)), name, (2, 0), label=f"{name.replace('_', ' ').capitalize()}: ")
        for name in names
    ]


def _summaries(context: SessionContext) -> list[Item]:
    num = len(context.previous_summaries)
    ages = range(num - 1, -1, -1)
    return [
        Item(
            "previous_summaries",
            text,
            f"summary {num - age} of {num}",
            (6, age) if age else (3, 0),
            label="- ",
            age=age,
        )
        for age, text in zip(ages, context.previous_summaries, strict=True)
    ]


def _messages(context: SessionContext) -> list[Item]:
    items: list[Item] = []
    num, age = len(context.recent_sessions), 0
    for ago, session in enumerate(reversed(context.recent_sessions)):
        group = "Last session:" if ago == 0 else f"{ago + 1} sessions ago:"
        for message in reversed(session):
            if message.content.strip():
                text = message.content.strip().replace("\n", "\n  ")
                what = f"messages of recent session {num - ago} of {num}"
                rank = (4 if ago == 0 else 7, age)
                items.append(
                    Item("recent_messages", text, what, rank, label=SPEAKERS[message.role], group=group, age=age)
                )
                age += 1
    return items[::-1]


def _plain(value: Any) -> str:
    """Returns a JSON value as plain text; empty for null."""
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_plain(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(_plain(item) for item in value)
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)
