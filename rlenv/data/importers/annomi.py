"""Imports AnnoMI as published by its authors (uccollab/AnnoMI, AnnoMI-full.csv): one row per utterance and annotator.

The client is the user, the therapist the assistant. If several people labelled an utterance, the majority's label
counts (on a tie, the first in the file), and the votes are kept too.
"""

from __future__ import annotations

import csv
import io
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlenv.core.errors import DataError, Problem
from rlenv.core.files import open_binary, short_name, unreadable
from rlenv.core.types import Session
from rlenv.data.importers.report import ImportOptions, ImportReport, finish

_ROLES = {"client": "user", "therapist": "assistant"}
_LABEL = {"client": "client_talk_type", "therapist": "main_therapist_behaviour"}
_KINDS = ("therapist_input", "reflection", "question")
_CONTEXT = ("topic", "video_title", "video_url")
_SAME = ("interlocutor", "utterance_text", "timestamp")
COLUMNS = (
    *("mi_quality", "transcript_id", *_CONTEXT, "utterance_id", "interlocutor", "timestamp", "utterance_text"),
    *("annotator_id", *(f"{kind}_{what}" for kind in _KINDS for what in ("exists", "subtype")), *_LABEL.values()),
)

Row = dict[str, str]


@dataclass
class _Transcript:
    where: str
    rows: dict[int, list[Row]] = field(default_factory=dict)
    bad: bool = False


def import_annomi(path: str | Path, options: ImportOptions | None = None) -> tuple[list[Session], ImportReport]:
    """Returns the sessions of AnnoMI-full.csv (plain or gzipped), and the report of the import.

    Raises:
        DataError: the file has problems; all of them are reported.
    """
    problems: list[Problem] = []
    report = ImportReport()
    transcripts: dict[str, _Transcript] = {}
    try:
        with open_binary(path) as file, io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
            _collect(csv.DictReader(text, strict=True), path, transcripts, problems, report)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError([unreadable(path, error)]) from error
    except UnicodeDecodeError as error:
        raise DataError([Problem(str(path), None, "", "UTF-8 text", "other bytes", "save it as UTF-8")]) from error
    except csv.Error as error:
        raise DataError(
            [*problems, Problem(str(path), None, "", "a CSV file", f"one that cannot be parsed ({error})")]
        ) from error
    if not transcripts and not problems:
        problems.append(Problem(str(path), None, "", "at least one row", "none"))
    return finish(_objects(transcripts, report), problems, report, options or ImportOptions())


def _collect(
    reader: csv.DictReader[str],
    path: str | Path,
    transcripts: dict[str, _Transcript],
    problems: list[Problem],
    report: ImportReport,
) -> None:
    missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
    if missing:
        hint = "the authors' AnnoMI-full.csv has them"
        problems.append(Problem(str(path), None, ", ".join(missing), "these columns", "none with these names", hint))
        return
    for row in reader:
        where, key = f"{path}:{reader.line_num}", row["transcript_id"]
        transcript = transcripts.setdefault(key, _Transcript(where))
        found = _row_problem(row, where, transcript)
        if found:
            transcript.bad = True
            problems.append(found)
        else:
            transcript.rows.setdefault(int(row["utterance_id"]), []).append(row)
            report.dropped["annotator_id"] += 1
            unknown = [name for name in row if name not in COLUMNS]
            report.dropped.update(f"{name} (no column of AnnoMI)" for name in unknown)


def _row_problem(row: Row, where: str, transcript: _Transcript) -> Problem | None:
    session_id = f"annomi-{row['transcript_id']}"
    short = next((name for name in COLUMNS if row[name] is None), None)
    if short or None in row:
        expected, came = f"{len(COLUMNS)} cells", "too few cells" if short else "too many cells"
        return Problem(where, session_id, "", expected, came, "is there a stray quote or comma?")
    if not row["utterance_id"].isdecimal():
        return Problem(where, session_id, "utterance_id", "a whole number", short_name(row["utterance_id"]))
    if row["interlocutor"] not in _ROLES:
        return Problem(where, session_id, "interlocutor", "client or therapist", short_name(row["interlocutor"]))
    others = transcript.rows.get(int(row["utterance_id"]))
    for name in _SAME if others else ():
        if others and row[name] != others[0][name]:
            return Problem(where, session_id, name, "what the other annotators' rows have", "something else")
    return None


def _objects(transcripts: dict[str, _Transcript], report: ImportReport) -> Iterator[tuple[str, dict[str, Any]]]:
    for key, transcript in transcripts.items():
        if transcript.bad:
            continue
        first = next(iter(transcript.rows.values()))[0]
        yield (
            transcript.where,
            {
                "session_id": f"annomi-{key}",
                "domain": "motivational_interviewing",
                "source": "uccollab/AnnoMI:AnnoMI-full.csv",
                "licence": "no licence file; README: 'publicly and freely available'",
                "chatbot": "human",
                "context": {"profile": None, **{name: first[name] for name in _CONTEXT}},
                "messages": [_message(number, rows, report) for number, rows in sorted(transcript.rows.items())],
                "outcome": {"mi_quality": first["mi_quality"]},
            },
        )


def _message(number: int, rows: list[Row], report: ImportReport) -> dict[str, Any]:
    first = rows[0]
    text = first["utterance_text"].strip()
    report.changed["messages with white space at their ends removed"] += text != first["utterance_text"]
    votes = [row[_LABEL[first["interlocutor"]]] for row in rows]
    message: dict[str, Any] = {
        "role": _ROLES[first["interlocutor"]],
        "content": text,
        "utterance_id": number,
        "timestamp": first["timestamp"],
        "actions": [_most(votes, report)],
    }
    if sub_actions := _sub_actions(rows):
        message["sub_actions"] = sub_actions
    if len(rows) > 1:
        message["action_votes"] = votes
    return message


def _most(votes: list[str], report: ImportReport) -> str:
    ranked = Counter(votes).most_common()
    report.changed["utterances whose annotators tied (first label taken)"] += (
        len(ranked) > 1 and ranked[0][1] == ranked[1][1]
    )
    return ranked[0][0]


def _sub_actions(rows: list[Row]) -> list[str]:
    """Returns the kinds that more than half of the annotators marked, each with their most frequent subtype."""
    found = []
    for kind in _KINDS:
        subtypes = [row[f"{kind}_subtype"] for row in rows if row[f"{kind}_exists"] == "True"]
        if len(subtypes) * 2 > len(rows):
            found.append(f"{kind}:{Counter(subtypes).most_common(1)[0][0]}")
    return found
