"""The exceptions that a person can cause or must act on: written to be read, with ids and counts, never message text.

An error says where, what was expected, what came and what to do. A file or config with many problems raises once,
with all of them. ``assert`` is for our own impossibilities; these classes know nothing of terminals or exit codes.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

MAX_SHOWN = 50
MAX_NAMES = 12
"""How many of the names that exist are listed where one was asked for that does not."""


def there_are(known: Collection[str], came: object) -> str:
    """Returns which names exist, and which of them was perhaps meant by ``came``.

    >>> there_are(["base", "it1"], "its1")
    "there are base, it1; did you mean 'it1'?"
    """
    names = sorted(known)
    listed = ", ".join(names[:MAX_NAMES]) + (f", ... ({len(names)} in all)" if len(names) > MAX_NAMES else "")
    return f"there are {listed}{did_you_mean(names, came)}" if names else "there are none"


def did_you_mean(known: Collection[str], came: object) -> str:
    """Returns the end of a message, "; did you mean ...?", where one of the known names is close to ``came``.

    >>> did_you_mean(["linear", "cosine"], "liner")
    "; did you mean 'linear'?"
    """
    close = get_close_matches(str(came), list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


class RlenvError(Exception):
    """Base of all errors whose message is for people: whoever runs rlenv can act on it."""


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong in one place of a file.

    >>> print(Problem("a.jsonl:3", "7f3a", "role", "'user' or 'assistant'", "'usr'", "did you mean 'user'?"))
    a.jsonl:3 (session 7f3a): role: expected 'user' or 'assistant', got 'usr'; did you mean 'user'?
    """

    where: str
    """``file:line``, or the file alone."""
    session_id: str | None = None
    field: str = ""
    """Path of the field, as in ``messages[4].role``; empty for the whole line or file."""
    expected: str = ""
    came: str = ""
    """What came, as type and length or as a short name; never message text."""
    hint: str = ""
    """What to do."""
    sentence: str = ""
    """Says expected and came in words of its own, in place of the standard "expected ..., got ..."."""

    def __str__(self) -> str:
        session = f" (session {self.session_id})" if self.session_id else ""
        field = f"{self.field}: " if self.field and not self.sentence else ""
        said = self.sentence or f"expected {self.expected}, got {self.came}"
        return f"{self.where}{session}: {field}{said}" + (f"; {self.hint}" if self.hint else "")


class DataError(RlenvError):
    """Data files that cannot be used: every problem of every file in one report.

    Args:
        problems: all of them, in the order of the files; ``str`` shows the first ``MAX_SHOWN``.
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
    """Settings that cannot be used together or at all."""


class EngineError(RlenvError):
    """A language model's engine or endpoint failed and could not be brought back."""


class OverlongError(RlenvError):
    """A prompt and its reply do not fit a model's positions."""


class PhaseError(RlenvError):
    """A phase of a run failed: the message says which, why, and how to resume."""
