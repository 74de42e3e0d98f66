"""Where a run stands, read from its directory alone: phase, progress, rate, time left, and what failed.

Works from another terminal or another node, while the run goes on or after it ended.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from launch.run.config import RunConfig
from launch.run.contents import FURTHER_SFT, SMALL_LLAMA, run_settings, version_names
from launch.run.directory import DriverState, RunDirectory
from launch.run.settings import renamed, typed
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
    """Phases still to come, without the current one; empty for a run whose phases are not known beforehand."""
    seconds_left: float | None
    """Of the whole run, from the phases of the same kind; None until there is one of each."""
    failed_conversations: dict[str, int]
    """Failed conversations by kind."""
    newest: dict[str, Any]
    """The newest row of ``metrics.jsonl``."""
    last_sign: float | None
    """Seconds since anything was written."""


def read_status(root: str | Path, now: float | None = None) -> Status:
    """Returns where the run in ``root`` stands.

    Args:
        root: a run directory.
        now: unix time; None is the present.

    Raises:
        ConfigError: the folder holds no run.
    """
    settings, run = run_settings(root), RunDirectory(root)
    now = time.time() if now is None else now
    driver, timings = run.state(), run.timings()
    finished = {name: seconds for name, seconds in timings.items() if run.has(name)}
    running = driver.state == "running" and driver.phase is not None
    progress = _progress(run.root / "logs", driver.since or 0.0) if running else None
    ahead = [name for name in expected_phases(settings) if not run.has(name) and name != driver.phase]
    remaining = tuple(ahead) if driver.state != "finished" else ()
    elapsed = now - (driver.since or now)
    left = _seconds_left(timings, remaining, driver.phase if running else None, progress, elapsed)
    metrics = run.path("metrics.jsonl")
    rows = read_metrics(metrics) if metrics.exists() else []
    return Status(
        root=str(run.root),
        driver=driver,
        progress=progress,
        finished=finished,
        remaining=remaining,
        seconds_left=left if running else None,
        failed_conversations=_failed(run.root),
        newest=rows[-1] if rows else {},
        last_sign=_last_sign(run.root, driver.since, now),
    )


def expected_phases(settings: Mapping[str, Any]) -> list[str]:
    """Returns the phases of an adversarial run with these settings, in order; none for runs of another kind.

    Rows that are no version (``zero_shot``, ``resampled``) are left out, as is what ``stop`` may end early.

    Raises:
        ConfigError: the settings are damaged.
    """
    if "num_iterations" not in settings:
        return []
    config = typed(RunConfig, [renamed(dict(settings))], "config.yaml")
    judged = config.accept != "always" or config.stop != "never"
    phases = ["data"]
    if SMALL_LLAMA in (config.simulator.model, config.backbone):
        phases.append(f"models/{SMALL_LLAMA}")
    if not config.simulator.adapter:
        phases.append("base/adapter")
    phases += [f"chatbots/{name}" for name, chatbot in config.chatbots.items() if chatbot.adapter == "trained"]
    versions = version_names(config)
    for version, following in zip_longest(versions, versions[1:]):
        phases += [f"{version}/adapter"] if version != "base" else []
        phases += [f"{version}/simulated", f"{version}/discriminator"]
        phases += [f"{version}/acceptance"] if judged else []
        phases += [] if following in (None, FURTHER_SFT) else [f"{version}/preferences"]
        phases.append(f"{version}/measures")
    return phases


def _progress(logs: Path, since: float) -> PhaseProgress | None:
    """Returns the progress of the newest file that was written since the phase began."""
    files = [p for p in logs.glob("*.jsonl") if p.stat().st_mtime >= since]
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
) -> float | None:
    """Returns the seconds until the run ends; None where a kind of phase has not been seen yet."""
    by_kind: dict[str, list[float]] = {}
    for name, seconds in timings.items():
        by_kind.setdefault(kind(name), []).append(seconds)
    if any(kind(name) not in by_kind for name in remaining) or (not remaining and current is None):
        return None
    total = sum(by_kind[kind(name)][-1] for name in remaining)
    if current is None:
        return total
    if progress is not None and progress.seconds_left is not None:
        return total + progress.seconds_left
    known = by_kind.get(kind(current))
    return total + max(0.0, known[-1] - elapsed) if known else None


def kind(phase: str) -> str:
    """Returns the kind of a phase; that of SFT differs from that of DPO.

    >>> kind("it2/simulated"), kind("base/adapter"), kind("it1/adapter")
    ('simulated', 'base/adapter', 'adapter')
    """
    return phase if phase == "base/adapter" or phase.startswith("chatbots/") else phase.rpartition("/")[2]


def _failed(root: Path) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for path in sorted(root.glob("*/simulated/counts.json")):
        found = read_json(path, lambda counts: are_numbers(*counts.values()))
        counts.update({k.removeprefix("failed_"): v for k, v in found.items() if k.startswith("failed_")})
    return {name: number for name, number in sorted(counts.items()) if number}


def _last_sign(root: Path, since: float | None, now: float) -> float | None:
    files = [root / "timings.jsonl", *(root / "logs").glob("*")]  # not the lock: its driver touches it all the time
    times = [path.stat().st_mtime for path in files if path.exists()] + ([] if since is None else [since])
    return max(0.0, now - max(times)) if times else None
