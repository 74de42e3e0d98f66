"""Reads, writes and splits sessions files: all problems are reported at once, and writing is atomic.

One JSON object per line (``rlenv.core.types.Session``), plain or gzipped. Unknown fields are kept and written back.
Independent of prompts, models and the source of the data (Section 4.1; ``rlenv.data.importers``).
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from rlenv.core.errors import ConfigError, DataError, Problem
from rlenv.core.files import read_objects, to_line, write_atomic
from rlenv.core.types import Message, Session
from rlenv.data.checks import check_session, short_id

Neighbours = Literal["merge", "reject", "keep"]
PathLike = str | Path


@dataclass
class ReadReport:
    """The counts of a reading."""

    num_sessions: int = 0
    num_messages: int = 0
    """After merging."""
    num_merged: int = 0
    """Messages joined to the one before, which was by the same speaker."""
    merge_conflicts: Counter[str] = field(default_factory=Counter)
    """Unknown fields that differed between joined messages, by name; the first message's value is kept."""


def read_sessions(paths: PathLike | Sequence[PathLike], *, neighbours: Neighbours = "merge") -> list[Session]:
    """Returns the sessions of all files, in order.

    Args:
        paths: JSON lines files, plain or gzipped.
        neighbours: consecutive messages of one speaker are joined with a line break ("merge"), are a problem
            ("reject"), or stay separate ("keep", for tools that must write back what they read).

    Raises:
        DataError: a file has problems; all problems of all files are reported.
    """
    return read_with_report(paths, neighbours=neighbours)[0]


def read_with_report(
    paths: PathLike | Sequence[PathLike], *, neighbours: Neighbours = "merge"
) -> tuple[list[Session], ReadReport]:
    """Returns the sessions as ``read_sessions`` does, and the counts."""
    report = ReadReport()
    return list(stream_sessions(paths, neighbours=neighbours, report=report)), report


def stream_sessions(
    paths: PathLike | Sequence[PathLike], *, neighbours: Neighbours = "merge", report: ReadReport | None = None
) -> Iterator[Session]:
    """Yields the sessions as ``read_sessions`` does, one by one, for files that do not fit into memory.

    Args:
        paths: as in ``read_sessions``.
        neighbours: as in ``read_sessions``.
        report: counts are added here.

    Raises:
        DataError: a file has problems. Raised only after the last session, so discard the sessions yielded before.
    """
    report = report if report is not None else ReadReport()
    problems: list[Problem] = []
    first_seen: dict[str, str] = {}
    for path in [paths] if isinstance(paths, (str, Path)) else paths:
        for where, value in read_objects(path, problems):
            session = check_session(value, where, problems, alternate=neighbours == "reject")
            session_id = value.get("session_id")
            if isinstance(session_id, str) and first_seen.setdefault(session_id, where) != where:
                problems.append(_twice(where, session_id, first_seen[session_id]))
            if session is None:
                continue
            if neighbours == "merge":
                session = merge_neighbours(session, report)
            report.num_sessions += 1
            report.num_messages += len(session.messages)
            yield session
    if problems:
        raise DataError(problems)


def write_sessions(path: PathLike, sessions: Iterable[Session]) -> None:
    """Writes sessions, one per line, atomically; gzipped if the name ends with ``.gz``.

    ``read_sessions(..., neighbours="keep")`` reads back what was written, including unknown fields. Fields that were
    never set are left out, so reading and writing a file keeps its fields.
    """
    write_atomic(path, (to_line(session_dict(session)) for session in sessions))


def session_dict(session: Session) -> dict[str, Any]:
    """Returns the JSON object of a session, as written to a file."""
    value = session.model_dump(exclude_unset=True)
    value.setdefault("messages", ())
    if session.user_id != session.session_id:
        value["user_id"] = session.user_id
    return value


def text_digest(session: Session) -> str:
    """Returns a digest of the roles and texts of a session's messages, independent of id, labels and context."""
    texts = [[message.role, message.content] for message in session.messages]
    return hashlib.blake2b(to_line(texts), digest_size=16).hexdigest()


def with_messages(sessions: Iterable[Session]) -> tuple[list[Session], int]:
    """Returns the sessions with messages, and the number of those without, which are valid but cannot be used.

    >>> with_messages([Session(session_id="empty")])
    ([], 1)
    """
    sessions = list(sessions)
    kept = [session for session in sessions if session.messages]
    return kept, len(sessions) - len(kept)


def num_neighbours(messages: Sequence[Message]) -> int:
    """Returns the number of messages by the same speaker as the message before."""
    return sum(one.role == two.role for one, two in pairwise(messages))


def merge_neighbours(session: Session, report: ReadReport | None = None) -> Session:
    """Returns the session with consecutive messages of the same speaker joined; ``report`` counts them.

    Texts are joined by a line break (empty ones are skipped), labels are united in order. Unknown fields that are lists
    are united too; of others that differ, the first value is kept and ``report.merge_conflicts`` counts them.
    """
    report = report if report is not None else ReadReport()
    joined: list[Message] = []
    for message in session.messages:
        if joined and joined[-1].role == message.role:
            joined[-1] = _join(joined[-1], message, report.merge_conflicts)
            report.num_merged += 1
        else:
            joined.append(message)
    if len(joined) == len(session.messages):
        return session
    return session.model_copy(update={"messages": tuple(joined)})


def split_by_user(sessions: Sequence[Session], shares: Mapping[str, float], seed: int) -> dict[str, list[Session]]:
    """Returns the sessions in named parts that have no user in common.

    A user's part depends only on the seed and the user's id: adding users never moves others, and the order of sessions
    and of ``shares`` does not matter. So the parts have these shares of the users on average, not exactly.

    Args:
        sessions: the sessions; their order is kept within each part.
        shares: the share of each part; they sum to 1, as in ``{"train": 0.8, "test": 0.2}``.
        seed: seed of the split.

    Raises:
        ConfigError: the shares are not positive or do not sum to 1, or a part would be empty.
    """
    if not shares or not all(0 < share <= 1 for share in shares.values()) or not math.isclose(sum(shares.values()), 1):
        raise ConfigError(f"shares of a split must be above 0 and sum to 1, got {dict(shares)}")
    parts: dict[str, list[Session]] = {name: [] for name in shares}
    for session in sessions:
        parts[_part_of(session.user_id, shares, seed)].append(session)
    if empty := [name for name, part in parts.items() if not part]:
        num_users = len({session.user_id for session in sessions})
        raise ConfigError(
            f"split part(s) {', '.join(empty)} would be empty: {len(sessions)} sessions of {num_users} users in shares "
            f"{dict(shares)} with seed {seed}; use more users, larger shares or another seed"
        )
    return parts


def _part_of(user_id: str, shares: Mapping[str, float], seed: int) -> str:
    digest = hashlib.blake2b(f"{seed}\0{user_id}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    point = int.from_bytes(digest, "big") / 2**64
    edge = 0.0
    for name in sorted(shares):
        edge += shares[name]
        if point < edge:
            return name
    return max(shares)  # the last edge, one rounding error below 1


def _join(one: Message, two: Message, conflicts: Counter[str]) -> Message:
    fields = one.model_dump(exclude_unset=True)
    fields["content"] = "\n".join(text for text in (one.content, two.content) if text)
    for name, value in two.model_dump(exclude_unset=True, exclude={"role", "content"}).items():
        first = fields.get(name)
        if first is None:
            fields[name] = value
        elif isinstance(first, (list, tuple)) and isinstance(value, (list, tuple)):
            fields[name] = type(first)([*first, *(item for item in value if item not in first)])
        elif value is not None and value != first:
            conflicts[name] += 1
    return Message.model_validate(fields)


def _twice(where: str, session_id: str, first: str) -> Problem:
    hint = f"the same id is at {first}; remove or rename one"
    return Problem(where, short_id(session_id), "session_id", "a unique id", "one seen before", hint)
