"""``timings.jsonl`` of a run: how long each finished phase took, and when it ended."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rlenv.core.files import are_numbers, read_json_lines, write_text
from rlenv.core.settings import MOST_BYTES, longest_part

TIMINGS = "timings.jsonl"
LONGEST_S = 1e12
"""No time is as long; NaN and infinity are not shorter."""


@dataclass(frozen=True)
class Timing:
    """A finished phase."""

    phase: str
    """Its folder in the run."""
    seconds: float
    """Wall seconds."""
    ended: float
    """Unix time."""


def read_timings(root: str | Path) -> list[Timing]:
    """Returns the lines of a run's file, oldest first; [] where there is none.

    A phase that was made again, or whose driver was killed at its end, has several.

    Raises:
        DataError: the file is damaged; names the line.
    """
    path = Path(root) / TIMINGS
    rows = read_json_lines(path, is_timing) if path.exists() else []
    return [Timing(row["phase"], float(row["seconds"]), float(row["ended"])) for row in rows]


def is_timing(row: Mapping[str, Any]) -> bool:
    """Returns whether a line has the fields of ``Timing``; raises ``KeyError`` for one that is missing."""
    phase, times = row["phase"], (row["seconds"], row["ended"])
    named = isinstance(phase, str) and all(phase.split("/")) and "\0" not in phase
    is_folder = named and longest_part(phase) <= MOST_BYTES
    return is_folder and are_numbers(*times) and all(abs(time) < LONGEST_S for time in times)


def note_timing(root: Path, timing: Timing) -> None:
    """Appends a line to a run's file."""
    with open(root / TIMINGS, "a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(timing)) + "\n")


def write_timings(root: Path, timings: Sequence[Timing]) -> None:
    """Replaces a run's file."""
    write_text(root / TIMINGS, "".join(json.dumps(asdict(timing)) + "\n" for timing in timings))
