"""Imports ESConv and FailedESConv as published by their authors (thu-coai/Emotional-Support-Conversation): a JSON list.

The seeker is the user, the supporter the assistant. Strategies become ``actions`` of the assistant's messages; the
seeker's feedback stays with its message. Both are people, so ``chatbot`` is "human".
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlenv.core.errors import DataError, Problem
from rlenv.core.files import describe, open_binary, parse_json, short_name, unreadable
from rlenv.core.types import Session
from rlenv.data.importers.report import ImportOptions, ImportReport, finish

_ROLES = {"seeker": "user", "speaker": "user", "supporter": "assistant", "listener": "assistant"}
_CONTEXT = ("situation", "emotion_type", "problem_type", "experience_type")
_OWN = {*_CONTEXT, "dialog"}


def import_esconv(
    path: str | Path, options: ImportOptions | None = None, *, failed: bool | None = None
) -> tuple[list[Session], ImportReport]:
    """Returns the sessions of ESConv.json or FailedESConv.json (plain or gzipped), and the report of the import.

    Args:
        path: the authors' file.
        options: what to merge, drop and skip.
        failed: mark the sessions as failed (``outcome.failed``); None looks for "fail" in the file's name.

    Raises:
        DataError: the file has problems; all of them are reported.
    """
    problems: list[Problem] = []
    try:
        with open_binary(path) as file:
            value = parse_json(file.read().removeprefix(b"\xef\xbb\xbf"), str(path), problems)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError([unreadable(path, error)]) from error
    if not isinstance(value, list) or not value:
        if not problems:
            hint = "the authors' ESConv.json; for JSON lines use `rlenv import chat`"
            problems.append(Problem(str(path), None, "", "a JSON list of dialogues", describe(value), hint))
        raise DataError(problems)
    name = Path(path).name.removesuffix(".gz")
    if failed is None:
        failed = "fail" in name.lower()
    report = ImportReport()
    return finish(_objects(value, path, name, failed, problems, report), problems, report, options or ImportOptions())


def _objects(
    dialogues: list[Any], path: str | Path, name: str, failed: bool, problems: list[Problem], report: ImportReport
) -> Iterator[tuple[str, dict[str, Any]]]:
    for i, dialogue in enumerate(dialogues):
        where, found = f"{path}[{i}]", len(problems)
        session_id = f"esconv-failed-{i}" if failed else f"esconv-{i}"
        if not isinstance(dialogue, dict) or not isinstance(dialogue.get("dialog"), list):
            came = describe(dialogue.get("dialog") if isinstance(dialogue, dict) else dialogue)
            problems.append(Problem(where, session_id, "dialog", "a list of utterances", came))
            continue
        messages = [_message(m, j, where, session_id, problems, report) for j, m in enumerate(dialogue["dialog"])]
        outcome = {key: item for key, item in dialogue.items() if key not in _OWN}
        if len(problems) == found:
            yield (
                where,
                {
                    "session_id": session_id,
                    "domain": "emotional_support",
                    "source": f"thu-coai/Emotional-Support-Conversation:{name}",
                    "licence": "CC BY-NC 4.0; 'for academic research use only'",
                    "chatbot": "human",
                    "context": {"profile": None, **{key: dialogue[key] for key in _CONTEXT if key in dialogue}},
                    "messages": messages,
                    "outcome": outcome | ({"failed": True} if failed else {}),
                },
            )


def _message(
    utterance: Any, index: int, where: str, session_id: str, problems: list[Problem], report: ImportReport
) -> dict[str, Any]:
    field = f"dialog[{index}]"
    if not isinstance(utterance, dict):
        problems.append(Problem(where, session_id, field, "an object", describe(utterance)))
        return {}
    speaker, content, annotation = utterance.get("speaker"), utterance.get("content"), utterance.get("annotation", {})
    if not isinstance(speaker, str) or speaker not in _ROLES:
        expected = "seeker, speaker, supporter or listener"
        problems.append(Problem(where, session_id, f"{field}.speaker", expected, short_name(speaker)))
    if not isinstance(annotation, dict):
        problems.append(Problem(where, session_id, f"{field}.annotation", "an object", describe(annotation)))
        annotation = {}
    if not isinstance(content, str):
        problems.append(Problem(where, session_id, f"{field}.content", "text", describe(content)))
        content = ""
    stripped = content.strip()
    report.changed["messages with white space at their ends removed"] += stripped != content
    message: dict[str, Any] = {"role": _ROLES.get(str(speaker)), "content": stripped}
    if "strategy" in annotation:
        message["actions"] = [annotation["strategy"]]
    message |= {key: item for key, item in annotation.items() if key != "strategy"}
    return message | {key: item for key, item in utterance.items() if key not in ("speaker", "content", "annotation")}
