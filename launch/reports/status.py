"""Where a run stands, read from its directory alone: phase, progress, rate, time left, and what failed.

Works from another terminal or another node, while the run goes on or after it ended. Runs inside it, such as those of a
study, count as its own phases. Which phases a run makes is told by its driver's module (``expected_phases`` of
``launch.adversarial.expected``, ``launch.chatbot.driver`` and ``launch.study.driver``).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from launch.run.contents import check_run
from launch.run.directory import TRAINING, RunDirectory
from launch.run.lock import DriverState
from launch.run.timings import TIMINGS
from launch.tracking.tracker import read_metrics
from rlenv.core.files import are_numbers, read_json
from rlenv.core.progress import Line, read_progress

RECENT = 20
"""Progress lines from which the rate is taken."""


@dataclass(frozen=True)
class PhaseProgress:
    """How far the current phase is."""

    title: str
    done: int
    total: int
    rate: float | None
    """Steps or items a second, lately; None until it is known."""
    seconds_left: float | None


@dataclass(frozen=True)
class Status:
    """Where a run stands. Times are seconds."""

    root: str
    driver: DriverState
    progress: PhaseProgress | None
    finished: dict[str, float]
    """Finished phases with their wall seconds."""
    remaining: tuple[str, ...]
    """Phases still to come, without the current one."""
    seconds_left: float | None
    """Of the whole run, from the phases of the same kind; None until one is known."""
    at_least: bool
    """Whether ``seconds_left`` lacks phases of a kind that has not been seen yet."""
    failed_conversations: dict[str, int]
    """Failed conversations by kind."""
    newest: dict[str, Any]
    """The newest row of ``metrics.jsonl``."""
    last_sign: float | None
    """Seconds since anything was written."""


def read_status(root: str | Path, expected: Sequence[str] = (), now: float | None = None) -> Status:
    """Returns where the run in ``root`` stands.

    Args:
        root: a run directory.
        expected: the phases that the run makes, in order; none where they are not known.
        now: unix time; None is the present.

    Raises:
        ConfigError: the folder holds no run.
    """
    check_run(root)
    now, run = time.time() if now is None else now, RunDirectory(root)
    inside = {f"{path.relative_to(run.root).as_posix()}/": RunDirectory(path) for path in _runs_inside(run.root)}
    runs = {"": run, **inside}
    driver = _driver(run.state(), inside)
    timings = {prefix + name: seconds for prefix, one in runs.items() for name, seconds in one.timings().items()}
    finished = {name: seconds for name, seconds in timings.items() if run.has(name)}
    running = driver.state == "running" and driver.phase is not None
    folders = [one.path("logs") for one in runs.values()]
    progress = _progress(folders, driver.since or 0.0) if running else None
    ahead = [name for name in expected if not run.has(name) and name != driver.phase]
    remaining = tuple(ahead) if driver.state != "finished" else ()
    elapsed = now - (driver.since or now)
    left, at_least = _seconds_left(timings, remaining, driver.phase if running else None, progress, elapsed)
    metrics = run.path("metrics.jsonl")
    rows = read_metrics(metrics) if metrics.exists() else []
    return Status(
        root=str(run.root),
        driver=driver,
        progress=progress,
        finished=finished,
        remaining=remaining,
        seconds_left=left if running else None,
        at_least=at_least,
        failed_conversations=_failed(list(runs.values())),
        newest=rows[-1] if rows else {},
        last_sign=_last_sign(list(runs.values()), driver.since, now),
    )


def _runs_inside(root: Path) -> list[Path]:
    """Returns the run directories below a folder; not W&B's folders, which have settings of the same name."""
    found = sorted(path.parent for path in root.rglob("config.yaml") if (path.parent / "logs").is_dir())
    return [path for path in found if path != root and TRAINING not in path.relative_to(root).parts]


def _driver(own: DriverState, inside: Mapping[str, RunDirectory]) -> DriverState:
    """Returns the driver's state with the phase of the run inside that it is making, or was."""
    if own.phase is not None or own.state == "finished":
        return own
    states = {prefix: run.state() for prefix, run in inside.items()}
    same = {p: s for p, s in states.items() if s.state == own.state and s.phase and (s.began or 0) >= (own.began or 0)}
    if not same:
        return own
    prefix = max(same, key=lambda p: same[p].since or 0.0)
    found = same[prefix]
    return replace(own, phase=f"{prefix}{found.phase}", since=found.since, error=own.error or found.error)


def _progress(folders: Sequence[Path], since: float) -> PhaseProgress | None:
    """Returns the progress of the newest file that was written since the phase began."""
    files = [p for logs in folders for p in logs.glob("*.jsonl") if p.stat().st_mtime >= since]
    lines = read_progress(max(files, key=lambda p: p.stat().st_mtime)) if files else []
    return phase_progress(lines)


def phase_progress(lines: Sequence[Line]) -> PhaseProgress | None:
    """Returns how far the newest attempt of a phase is; None without lines.

    >>> lines = [{"phase": "p", "step": s, "total": 10, "time": t} for s, t in [(7, 0.0), (2, 5.0), (4, 9.0)]]
    >>> phase_progress(lines)
    PhaseProgress(title='p', done=4, total=10, rate=0.5, seconds_left=12.0)
    """
    attempt: list[Line] = []
    for line in lines:
        if attempt and int(line["step"]) <= int(attempt[-1]["step"]):  # it began again
            attempt = []
        attempt.append(line)
    if not attempt:
        return None
    last, first = attempt[-1], attempt[-RECENT:][0]
    steps, seconds = int(last["step"]) - int(first["step"]), float(last["time"]) - float(first["time"])
    rate = steps / seconds if steps > 0 and seconds > 0 else None
    left = (int(last["total"]) - int(last["step"])) / rate if rate else None
    return PhaseProgress(str(last["phase"]), int(last["step"]), int(last["total"]), rate, left)


def _seconds_left(
    timings: Mapping[str, float],
    remaining: Sequence[str],
    current: str | None,
    progress: PhaseProgress | None,
    elapsed: float,
) -> tuple[float | None, bool]:
    """Returns the seconds until the run ends, and whether some kind of phase has not been seen yet and is left out."""
    by_kind = {kind(name): seconds for name, seconds in timings.items()}
    known = [by_kind[kind(name)] for name in remaining if kind(name) in by_kind]
    num_unknown = len(remaining) - len(known)
    if current is not None:
        if progress is not None and progress.seconds_left is not None:
            known.append(progress.seconds_left)
        elif kind(current) in by_kind:
            known.append(max(0.0, by_kind[kind(current)] - elapsed))
        else:
            num_unknown += 1
    return (sum(known), num_unknown > 0) if known else (None, False)


def kind(phase: str) -> str:
    """Returns the kind of a phase: those of one kind take about equally long.

    >>> kind("it2/simulated"), kind("base/adapter"), kind("it1/adapter"), kind("adversarial/it1/measures")
    ('simulated', 'base/adapter', 'it/adapter', 'measures')
    >>> kind("measured/it1/simulated"), kind("sizes/20/base/simulated"), kind("chatbots/gpt2")
    ('measured/simulated', 'sizes/simulated', 'chatbots/gpt2')
    """
    *where, version, last = ["", *phase.split("/")]
    where = [part.rstrip("0123456789") for part in where if part]
    if version in ("chatbots", "models"):
        return phase
    name = f"{version.rstrip('0123456789')}/{last}" if last == "adapter" else last
    return "/".join([*(part for part in where[:1] if part not in ("adversarial", "refresh")), name])


def _failed(runs: Sequence[RunDirectory]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for path in sorted(path for run in runs for path in run.root.glob("*/simulated/counts.json")):
        found = read_json(path, lambda counts: are_numbers(*counts.values()))
        counts.update({k.removeprefix("failed_"): v for k, v in found.items() if k.startswith("failed_")})
    return {name: number for name, number in sorted(counts.items()) if number}


def _last_sign(runs: Sequence[RunDirectory], since: float | None, now: float) -> float | None:
    # not the lock: its driver touches it all the time
    files = [file for run in runs for file in (run.path(TIMINGS), *run.path("logs").glob("*"))]
    times = [path.stat().st_mtime for path in files if path.exists()] + ([] if since is None else [since])
    return max(0.0, now - max(times)) if times else None
