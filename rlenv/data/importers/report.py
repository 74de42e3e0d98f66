"""What all importers share: options, report, and the last step from plain objects to sessions.

Independent of the formats of the sources.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rlenv.core.errors import DataError, Problem
from rlenv.core.types import Message, Session, SessionContext
from rlenv.data.checks import check_session
from rlenv.data.sessions import ReadReport, merge_neighbours, num_neighbours
from rlenv.prompting.context import ContextConfig

KNOWN = {
    "": {*Session.model_fields, "domain", "licence", "outcome"},
    "context.": {*SessionContext.model_fields, *ContextConfig().profile_fields},
    "messages[].": {*Message.model_fields},
    "context.recent_sessions[][].": {*Message.model_fields},
}
"""The fields that the neutral format defines or rlenv reads, by path; others are unknown, and kept unless dropped."""


@dataclass(frozen=True)
class ImportOptions:
    """The options of an import."""

    merge_neighbours: bool = False
    """Join consecutive messages of one speaker; otherwise they stay as in the source."""
    drop_unknown: bool = False
    """Leave out fields that rlenv does not know; the report counts them."""
    skip_bad: bool = False
    """Leave out and report sessions with problems, instead of importing nothing."""


@dataclass
class ImportReport:
    """The report of an import: counts by field, never message text."""

    num_sessions: int = 0
    num_users: int = 0
    num_messages: int = 0
    num_neighbours: int = 0
    """Messages in the source from the same speaker as the message before."""
    num_merged: int = 0
    kept: Counter[str] = field(default_factory=Counter)
    """Unknown fields that were kept, by path."""
    dropped: Counter[str] = field(default_factory=Counter)
    """Fields of the source that were left out, by path."""
    changed: Counter[str] = field(default_factory=Counter)
    """Changes, by description."""
    problems: tuple[Problem, ...] = ()
    """Problems of the skipped sessions."""


def finish(
    objects: Iterable[tuple[str, dict[str, Any]]], problems: list[Problem], report: ImportReport, options: ImportOptions
) -> tuple[list[Session], ImportReport]:
    """Returns the sessions of plain objects, and the report with its counts filled in.

    Args:
        objects: for each session, its place in the source and the object in the form of ``Session``.
        problems: problems found while the objects were made; may grow while ``objects`` is read.
        report: counts are added here.
        options: what to merge, drop and skip.

    Raises:
        DataError: there are problems and ``skip_bad`` is not set, or no session is left; all problems are reported.
    """
    sessions: dict[str, Session] = {}
    for where, value in objects:
        if options.drop_unknown:
            value = _drop_unknown(value, report)
        session = check_session(value, where, problems)
        if session is not None and session.session_id in sessions:
            hint = "session ids must differ; rename one"
            problems.append(Problem(where, session.session_id, "session_id", "a unique id", "one seen before", hint))
        elif session is not None:
            sessions[session.session_id] = session
    if problems and not (options.skip_bad and sessions):
        raise DataError(problems)
    report.problems = tuple(problems)
    report.changed = +report.changed
    return _counted(list(sessions.values()), report, options), report


def unknown_fields(session: Mapping[str, Any]) -> Counter[str]:
    """Returns the number of occurrences of each unknown field, by path, in a session's JSON object."""
    return Counter(place + name for place, part in _parts(session) for name in part if name not in KNOWN[place])


def near_known(path: str) -> str | None:
    """Returns the known field of which an unknown one may be a misspelling, or None.

    >>> near_known("context.situaton"), near_known("messages[].timestamp")
    ('context.situation', None)
    """
    place = max((place for place in KNOWN if path.startswith(place)), key=len)
    near = difflib.get_close_matches(path[len(place) :], KNOWN[place], n=1, cutoff=0.85)
    return place + near[0] if near else None


def _counted(sessions: list[Session], report: ImportReport, options: ImportOptions) -> list[Session]:
    report.num_neighbours = sum(num_neighbours(session.messages) for session in sessions)
    if options.merge_neighbours:
        merging = ReadReport()
        sessions = [merge_neighbours(session, merging) for session in sessions]
        report.num_merged = merging.num_merged
        report.dropped.update(
            {f"messages[].{name} (of joined messages)": n for name, n in merging.merge_conflicts.items()}
        )
    for session in sessions:
        report.kept.update(unknown_fields(session.model_dump(exclude_unset=True)))
    report.num_sessions = len(sessions)
    report.num_users = len({session.user_id for session in sessions})
    report.num_messages = sum(len(session.messages) for session in sessions)
    return sessions


def _drop_unknown(value: dict[str, Any], report: ImportReport) -> dict[str, Any]:
    report.dropped.update(unknown_fields(value))
    kept = {name: item for name, item in value.items() if name in KNOWN[""]}
    for name, place in (("context", "context."), ("messages", "messages[].")):
        if isinstance(kept.get(name), (dict, list, tuple)):
            kept[name] = _only(kept[name], KNOWN[place])
    context = kept.get("context")
    if isinstance(context, dict) and isinstance(context.get("recent_sessions"), (list, tuple)):
        known = KNOWN["context.recent_sessions[][]."]
        context["recent_sessions"] = [_only(session, known) for session in context["recent_sessions"]]
    return kept


def _only(value: Any, names: set[str]) -> Any:
    if isinstance(value, dict):
        return {name: item for name, item in value.items() if name in names}
    return [_only(item, names) for item in value] if isinstance(value, (list, tuple)) else value


def _parts(session: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yields every object of a session that can have known fields, with its path; values of other types are skipped."""
    yield "", session
    context = session.get("context")
    if isinstance(context, Mapping):
        yield "context.", context
        for past in _list(context.get("recent_sessions")):
            yield from (("context.recent_sessions[][].", m) for m in _list(past) if isinstance(m, Mapping))
    yield from (("messages[].", m) for m in _list(session.get("messages")) if isinstance(m, Mapping))


def _list(value: Any) -> Iterable[Any]:
    return value if isinstance(value, (list, tuple)) else ()
