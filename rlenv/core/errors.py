"""Defines the exceptions that users can cause or must act on. Messages have ids and counts, never message text.

A message tells where the error is, what was expected, what was found and what to do. All problems of a file or config
are raised together. ``assert`` is only for conditions that a bug alone can violate. Independent of terminals and exit
codes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

MAX_SHOWN = 50
MAX_NAMES = 12
"""The number of existing names that ``there_are`` lists."""


def there_are(known: Collection[str], came: object) -> str:
    """Returns the part of a message that lists the names that exist, with a suggestion if ``came`` is close to one.

    >>> there_are(["base", "it1"], "its1")
    "there are base, it1; did you mean 'it1'?"
    """
    names = sorted(known)
    listed = ", ".join(names[:MAX_NAMES]) + (f", ... ({len(names)} in all)" if len(names) > MAX_NAMES else "")
    return f"there are {listed}{did_you_mean(names, came)}" if names else "there are none"


def did_you_mean(known: Collection[str], came: object) -> str:
    """Returns "; did you mean ...?" for the end of a message if a known name is close to ``came``, else "".

    >>> did_you_mean(["linear", "cosine"], "liner")
    "; did you mean 'linear'?"
    """
    close = get_close_matches(str(came), list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


class RlenvError(Exception):
    """Base of all errors whose message tells the user of rlenv what to do."""


@dataclass(frozen=True)
class Problem:
    """One problem at one place of a file.

    >>> print(Problem("a.jsonl:3", "7f3a", "role", "'user' or 'assistant'", "'usr'", "did you mean 'user'?"))
    a.jsonl:3 (session 7f3a): role: expected 'user' or 'assistant', got 'usr'; did you mean 'user'?
    """

    where: str
    """``file:line``, or only the file."""
    session_id: str | None = None
    field: str = ""
    """Path of the field, such as ``messages[4].role``; empty for the whole line or file."""
    expected: str = ""
    came: str = ""
    """What was found, as type and length or as a short name; never message text."""
    hint: str = ""
    """What to do."""
    sentence: str = ""
    """Replaces the standard "expected ..., got ..."."""

    def __str__(self) -> str:
        session = f" (session {self.session_id})" if self.session_id else ""
        field = f"{self.field}: " if self.field and not self.sentence else ""
        sentence = self.sentence or f"expected {self.expected}, got {self.came}"
        return f"{self.where}{session}: {field}{sentence}" + (f"; {self.hint}" if self.hint else "")


class DataError(RlenvError):
    """Data files that cannot be used; has every problem of every file.

    Args:
        problems: in the order of the files; ``str`` shows the first ``MAX_SHOWN``.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        lines = [str(problem) for problem in self.problems[:MAX_SHOWN]]
        if len(self.problems) > MAX_SHOWN:
            lines.append(f"and {len(self.problems) - MAX_SHOWN} more")
        return "\n".join(lines)


class ConfigError(RlenvError):
    """Settings that are invalid, alone or in combination."""


class EngineError(RlenvError):
    """A language model's engine or endpoint failed and could not be restarted."""


class UnreachableError(EngineError):
    """An endpoint cannot be reached, takes too long or is overloaded, after all retries; it may be back later."""


class UnusableReplyError(EngineError):
    """A language model answers, but not in the form that was asked for, however often it is asked."""


class OverlongError(RlenvError):
    """A prompt and its reply exceed a model's maximum length."""


class PhaseError(RlenvError):
    """A phase of a run failed; the message tells which one, why, and how to resume."""
