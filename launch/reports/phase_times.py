"""Where the time of a run went: for each phase, how long a model worked, and how long none did.

Read from ``timings.jsonl`` and the progress lines in ``logs/``. A model works from when a part of a phase has all
loaded (``began`` of its progress lines) to its last line: conversations, training steps, scores. The rest is the start
of processes, imports, loading, writing, and figures that no model makes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from launch.run.timings import read_timings
from rlenv.core.progress import Line, read_progress

BETWEEN = "between phases"


@dataclass(frozen=True)
class PhaseTime:
    """The wall seconds of a phase, all attempts of it that were finished."""

    phase: str
    seconds: float
    working: float
    """A model worked."""
    before: float
    """Until one did; all seconds of a phase without one."""
    after: float
    """From when none did any more."""

    @property
    def idle(self) -> float:
        """Seconds in which no model worked."""
        return self.seconds - self.working


def phase_times(root: str | Path) -> list[PhaseTime]:
    """Returns the times of a run's finished phases, in order, and last the time between them.

    Of a run that was stopped meanwhile, the time between phases includes the pause.
    """
    timings = read_timings(root)
    if not timings:
        return []
    spans = [span for path in sorted((Path(root) / "logs").glob("*.jsonl")) for span in _spans(read_progress(path))]
    times, between, last = [], 0.0, None
    for timing in {timing.phase: timing for timing in timings}.values():
        began = timing.ended - timing.seconds
        times.append(_phase_time(timing.phase, began, timing.ended, spans))
        between += max(0.0, began - last) if last is not None else 0.0
        last = timing.ended
    return [*times, PhaseTime(BETWEEN, round(between, 2), 0.0, round(between, 2), 0.0)]


def _phase_time(phase: str, began: float, ended: float, spans: Sequence[tuple[float, float]]) -> PhaseTime:
    seconds = ended - began
    inside = sorted((max(began, start), min(ended, end)) for start, end in spans if start < ended and end > began)
    if not inside:
        return PhaseTime(phase, round(seconds, 2), 0.0, round(seconds, 2), 0.0)
    working, reached = 0.0, began
    for start, end in inside:
        working += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return PhaseTime(
        phase, round(seconds, 2), round(working, 2), round(inside[0][0] - began, 2), round(ended - reached, 2)
    )


def _spans(lines: Sequence[Line]) -> Iterator[tuple[float, float]]:
    """Yields the times from when a process's work began to its last line; of older lines, from the first line."""
    ends: dict[float, float] = {}
    first = float(lines[0]["time"]) if lines else 0.0
    for line in lines:
        began = float(line.get("began", first))
        ends[began] = max(ends.get(began, began), float(line["time"]))
    yield from ends.items()


def summed(times: Sequence[PhaseTime]) -> Mapping[str, float]:
    """Returns the seconds of all phases together: ``seconds``, ``working``, ``idle`` and its share ``idle_share``."""
    seconds, working = (sum(getattr(time, name) for time in times) for name in ("seconds", "working"))
    idle = seconds - working
    return {
        "seconds": round(seconds, 1),
        "working": round(working, 1),
        "idle": round(idle, 1),
        "idle_share": round(idle / seconds, 3) if seconds else 0.0,
    }
