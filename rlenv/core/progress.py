"""Progress: JSON lines of a phase, for live progress bars and curves, and the last sign of it in this process.

One line per logged step: ``{"phase", "step", "total", "time", "began", ...metrics}``, written by rank 0. A resumed run
continues at the step of its checkpoint, so steps may repeat. Numbers only, never text of conversations.

By its signs of progress a process that hangs is told from one that is slow. What works calls ``progressed``: after a
step of a training, a message, an answer. Its supervisor asks for ``silence_s``. A process that waits for another one,
which is supervised itself, does not count as silent: the other may be.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class _Signs:
    last = time.monotonic()
    waits: set[object] = set()  # noqa: RUF012  # of the process


def progressed() -> None:
    """Notes a sign of progress."""
    _Signs.last = time.monotonic()


@contextmanager
def waiting_for_supervised() -> Iterator[None]:
    """Excuses this process while it waits for one that is supervised."""
    wait = object()
    _Signs.waits.add(wait)
    try:
        yield
    finally:
        _Signs.waits.discard(wait)
        progressed()


def silence_s() -> float:
    """Returns the seconds since the last sign of progress, or since this module was imported; 0 in an excused wait."""
    return 0.0 if _Signs.waits else time.monotonic() - _Signs.last


class Progress:
    """Appends progress lines to a file; without a path it writes nothing."""

    def __init__(self, path: str | None, phase: str) -> None:
        self.path = Path(path) if path else None
        self.phase = phase
        self._began: float | None = None
        if self.path and self.path.exists():  # drop a partial line left by a killed worker
            written = self.path.read_bytes()
            os.truncate(self.path, written.rfind(b"\n") + 1)

    def begin(self) -> None:
        """Notes that work begins: all is loaded, and the first step follows. Only the first call counts."""
        progressed()
        if self._began is None:
            self._began = round(time.time(), 3)

    def write(self, step: int, total: int, **metrics: float) -> None:
        """Appends one line, which is a sign of progress in any case."""
        progressed()
        if self.path is None:
            return
        numbers = {k: v for k, v in metrics.items() if isinstance(v, (int, float)) and math.isfinite(v)}
        line = {"phase": self.phase, "step": step, "total": total, "time": round(time.time(), 3), **numbers}
        if self._began is not None:
            line["began"] = self._began
        with self.path.open("a") as stream:
            stream.write(json.dumps(line) + "\n")


Line = dict[str, float | int | str]
PLACE = {"phase", "step", "total", "time", "began"}
"""Keys that say where a line belongs; the others are metrics. ``began`` is when the work of its process began, in unix
time; older files have none."""


def read_progress(path: str | Path) -> list[Line]:
    """Returns the lines written so far, oldest first; those that are incomplete or damaged are left out."""
    file = Path(path)
    if not file.exists():
        return []
    found = (_line(text) for text in file.read_bytes().split(b"\n"))
    return [line for line in found if line is not None]


def _line(text: bytes) -> Line | None:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        return None
    whole = isinstance(line, dict) and isinstance(line.get("phase"), str)
    return line if whole and all(type(line.get(name)) in (int, float) for name in ("step", "total", "time")) else None


def read_curve(path: Path) -> list[tuple[int, dict[str, float]]]:
    """Returns the numbers of each step of a phase, in order, named ``job/quantity``; the file is ``JOB-VERSION.jsonl``.

    A step that was repeated counts with its last line.
    """
    job = path.stem.partition("-")[0]
    curve = []
    for step, line in sorted({int(line["step"]): line for line in read_progress(path)}.items()):
        numbers = {k: v for k, v in line.items() if k not in PLACE and isinstance(v, int | float)}
        curve.append((step, {f"{job}/{k.removeprefix(f'{job}/')}": v for k, v in numbers.items()}))
    return curve
