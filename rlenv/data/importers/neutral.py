"""Imports sessions in the neutral format: one JSON object per line, similar to ``Session``, with any other fields.

``session_id, domain, source, licence, chatbot ("human" if a person), context {profile, situation, ...},
messages [{role, content, actions?, issues?, ...}], outcome?``. Other names of the two roles can be mapped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rlenv.core.errors import Problem
from rlenv.core.files import read_objects
from rlenv.core.types import Session
from rlenv.data.importers.report import ImportOptions, ImportReport, finish

_MAY_BE_NULL = {"profile", "situation", "long_term_context", "current_summary", "actions", "issues"}


def import_jsonl(
    path: str | Path, options: ImportOptions | None = None, *, roles: Mapping[str, str] | None = None
) -> tuple[list[Session], ImportReport]:
    """Returns the sessions of a file in the neutral format (plain or gzipped), and the report of the import.

    Ids that are numbers become text; null in a known field that cannot be null counts as absent.

    Args:
        path: a JSON lines file.
        options: what to merge, drop and skip.
        roles: other names of the roles, as in ``{"seeker": "user"}``; names are never guessed.

    Raises:
        DataError: the file has problems; all of them are reported.
    """
    problems: list[Problem] = []
    report = ImportReport()
    objects = _objects(path, dict(roles or {}), problems, report)
    return finish(objects, problems, report, options or ImportOptions())


def _objects(
    path: str | Path, roles: Mapping[str, str], problems: list[Problem], report: ImportReport
) -> Iterator[tuple[str, dict[str, Any]]]:
    for where, value in read_objects(path, problems):
        for name in ("session_id", "user_id"):
            if isinstance(value.get(name), int) and not isinstance(value[name], bool):
                value[name] = str(value[name])
                report.changed[f"{name}: number to text"] += 1
        _leave_out_null(value, Session, "", report)
        context, messages = value.get("context"), value.get("messages")
        if isinstance(context, dict):
            _leave_out_null(context, type(Session.model_fields["context"].default), "context.", report)
        for message in messages if isinstance(messages, list) else ():
            if isinstance(message, dict) and isinstance(role := message.get("role"), str) and role in roles:
                message["role"] = roles[role]
                report.changed[f"messages[].role: '{role}' to '{roles[role]}'"] += 1
        yield where, value


def _leave_out_null(value: dict[str, Any], record: type[Any], place: str, report: ImportReport) -> None:
    for name in record.model_fields:
        if name in value and value[name] is None and name not in _MAY_BE_NULL:
            del value[name]
            report.changed[f"{place}{name}: null left out"] += 1
