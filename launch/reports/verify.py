"""Whether the files of a run are those that its phases wrote, by the manifests of the phases (``rlenv verify``).

Finds damage and says which phase to make again, and which others were made from it. Changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.run.contents import FURTHER_SFT, check_run, run_settings, version_order
from launch.run.directory import PARTIAL, TRAINING
from launch.run.manifest import MANIFEST, Fault, faults
from launch.run.timings import TIMINGS, is_timing, read_timings
from rlenv.core.errors import DataError, RlenvError
from rlenv.core.files import read_json_lines

SAME_VERSION = {
    "adapter": ("simulated", "discriminator", "preferences", "measured"),
    "simulated": ("discriminator", "acceptance", "preferences", "measures"),
    "discriminator": ("acceptance", "preferences", "measures"),
    "acceptance": ("preferences",),
    "measured": ("judged",),
}
"""Kinds of phases, and those of the same version that read their files."""
LATER_VERSION = ("adapter", "acceptance", "preferences")
"""Kinds of phases whose files the adapters of later versions are made from."""


@dataclass(frozen=True)
class PhaseFaults:
    """What is wrong in the folder of one phase."""

    phase: str
    faults: tuple[Fault, ...]
    """Empty where the whole folder is missing."""
    made_from_it: tuple[str, ...]
    """The finished phases that were made from its files, directly or by others."""


@dataclass(frozen=True)
class Verified:
    """The outcome of a check."""

    root: str
    checked: tuple[str, ...]
    """The phases with a manifest."""
    unchecked: tuple[str, ...]
    """The finished phases without one, made by an older version."""
    damaged: tuple[PhaseFaults, ...]
    unreadable: tuple[str, ...]
    """Messages on files that belong to no phase."""

    @property
    def sound(self) -> bool:
        """Whether nothing is wrong with what could be checked."""
        return not self.damaged and not self.unreadable


def verify(root: str | Path, on_phase: Callable[[str], object] = lambda phase: None) -> Verified:
    """Returns how the files of a run differ from what its phases wrote; reads every file once.

    Args:
        root: a run directory; runs inside it (of a study, of a refreshed simulator) are checked, too.
        on_phase: called with each phase before it is read.

    Raises:
        ConfigError: the folder holds no run.
    """
    check_run(root)
    top = Path(root).absolute()
    runs = [top, *sorted(path.parent for path in top.rglob(TIMINGS) if path.parent != top)]
    unreadable = [message for run in runs for message in _unreadable(run)]
    ended: dict[str, float] = {}
    for run in runs:
        prefix = "" if run == top else f"{run.relative_to(top).as_posix()}/"
        ended |= {prefix + name: time for name, time in _ended(run).items()}
    with_manifest = _with_manifest(top)
    newest = max(ended, key=lambda name: ended[name], default=None)
    there = {name for name in ended if (top / name).exists()}
    finished = sorted(there | set(with_manifest), key=lambda name: (ended.get(name, float("inf")), name))
    damaged = []
    for phase in with_manifest:
        on_phase(phase)
        if found := _faults(top / phase):
            damaged.append(PhaseFaults(phase, tuple(found), made_from(phase, finished, ended)))
    for phase in ended.keys() - there - {newest}:  # a driver that is killed may note the newest before it is there
        damaged.append(PhaseFaults(phase, (), made_from(phase, finished, ended)))
    return Verified(
        root=str(top),
        checked=tuple(with_manifest),
        unchecked=tuple(name for name in finished if name not in with_manifest),
        damaged=tuple(sorted(damaged, key=lambda d: (ended.get(d.phase, float("inf")), d.phase))),
        unreadable=tuple(unreadable),
    )


def made_from(phase: str, finished: Sequence[str], ended: Mapping[str, float]) -> tuple[str, ...]:
    """Returns the finished phases that were made from a phase, directly or by others, in the order of ``finished``.

    Args:
        phase: the phase.
        finished: the finished phases of the run and of the runs inside it.
        ended: when they ended. For phases of different runs, what ended later counts as made from what ended before.

    >>> phases = ["data", "base/adapter", "base/simulated", "base/discriminator", "base/measures", "it1/adapter"]
    >>> made_from("base/discriminator", [*phases, "base/preferences"], {})
    ('base/measures', 'it1/adapter', 'base/preferences')
    """
    found: set[str] = set()
    waiting = [phase]
    while waiting:
        source = waiting.pop()
        new = [name for name in finished if name not in found and name != phase and _reads(name, source, ended)]
        found.update(new)
        waiting += new
    return tuple(name for name in finished if name in found)


def _reads(reader: str, phase: str, ended: Mapping[str, float]) -> bool:
    """Returns whether a phase reads the files of another."""
    (run, version, kind), (other_run, other_version, other_kind) = _parts(phase), _parts(reader)
    base_data = version == "models" or (not version and kind == "data")
    if base_data and run == other_run:
        return other_version != "models" and (other_version, other_kind) != ("", "data")
    known = version in ("chatbots", "rounds") or kind in (*SAME_VERSION, "preferences", "measures", "judged")
    if run != other_run or not known:
        return ended.get(reader, float("inf")) > ended.get(phase, float("inf"))
    if version == "chatbots":
        return other_kind in ("simulated", "measured") or other_version == "rounds"
    if version == "rounds":
        return other_kind == "adapter"
    if version == other_version:
        return other_kind in SAME_VERSION.get(kind, ())
    if other_version.startswith(f"{version}_of_"):  # its resampled users
        return other_kind == "simulated" and kind in ("adapter", "discriminator")
    if other_version == FURTHER_SFT:
        return (version, kind, other_kind) == ("base", "adapter", "adapter")
    if version == FURTHER_SFT and kind == "adapter":  # it may be a mere row of the table
        return False
    later = _order(other_version) > _order(version) >= 0
    return later and other_kind == "adapter" and kind in LATER_VERSION


def _parts(phase: str) -> tuple[str, str, str]:
    """Returns the run below the checked one, the version and the kind of a phase.

    >>> _parts("it1/simulated"), _parts("data"), _parts("sizes/4/base/adapter")
    (('', 'it1', 'simulated'), ('', '', 'data'), ('sizes/4', 'base', 'adapter'))
    """
    *before, kind = phase.split("/")
    if kind == "data":
        return "/".join(before), "", kind
    return "/".join(before[:-1]), before[-1] if before else "", kind


def _order(version: str) -> int:
    """Returns the place of a version among those that are trained one after another: base, it1, ...; start, rl1, ..."""
    if version == "start":
        return 0
    return version_order(f"it{version[2:]}" if version.startswith("rl") else version)[0]


def _with_manifest(top: Path) -> list[str]:
    """Returns the phases below a folder that have a manifest, by name; what is inside a phase is no phase."""
    found: list[Path] = []
    for path in sorted(top.rglob(MANIFEST), key=lambda p: len(p.parts)):
        folder = path.parent
        parts = folder.relative_to(top).parts
        within = any(folder.is_relative_to(phase) for phase in found)
        if folder != top and not within and TRAINING not in parts and not any(p.endswith(PARTIAL) for p in parts):
            found.append(folder)
    return sorted(folder.relative_to(top).as_posix() for folder in found)


def _faults(folder: Path) -> list[Fault]:
    try:
        return faults(folder)
    except DataError:
        return [Fault(MANIFEST, "unreadable", "a manifest as rlenv wrote it", "a broken or truncated one")]


def _ended(run: Path) -> dict[str, float]:
    try:
        return {timing.phase: timing.ended for timing in read_timings(run)}
    except RlenvError:
        return {}  # ``_unreadable`` tells it


ROWS: Mapping[str, Callable[[dict[str, Any]], bool]] = {
    TIMINGS: is_timing,
    "metrics.jsonl": bool,
    "curve.jsonl": bool,
}
"""Files of a run that belong to no phase, which grow; they are only read. And what each of their lines must be."""


def _unreadable(run: Path) -> list[str]:
    """Returns what is wrong with the files of a run that belong to no phase."""
    messages = []
    try:
        run_settings(run)
    except RlenvError as error:
        messages.append(str(error))
    for name, is_right in ROWS.items():
        try:
            if (run / name).exists():
                read_json_lines(run / name, is_right)
        except RlenvError as error:
            messages.append(str(error))
    return messages
