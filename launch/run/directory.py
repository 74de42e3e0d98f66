"""The run directory: a phase's output folder appears whole or not at all, so resuming means skipping what exists.

    run.once("base/sessions", write)   calls write(partial_folder) unless base/sessions exists, then renames it

Independent of what the phases do.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from launch.run.lock import DriverLock, DriverState
from launch.run.manifest import write_manifest
from launch.run.readers import Readers, readers_of
from launch.run.timings import Timing, note_timing, read_timings, write_timings
from rlenv.core.errors import ConfigError, DataError, PhaseError, RlenvError
from rlenv.core.files import NO_ROOM, damaged, new_folder, write_text
from rlenv.data.private import make_private, private_files

log = logging.getLogger(__name__)

PARTIAL = ".partial"
TRAINING = "training"
"""Folder of a run for the checkpoints of training phases in progress."""


class RunDirectory:
    """One run's folder: its settings, the outputs of its phases, its logs and timings.

    Args:
        root: the folder.
        outer: the run whose driver makes this one's phases and tells them as its own; None has a driver itself.
    """

    def __init__(self, root: str | Path, outer: RunDirectory | None = None) -> None:
        self.root = Path(root).absolute()
        self._outer = outer
        self._lock = DriverLock(self.root)

    def open(
        self,
        config: dict[str, Any],
        upgrade: Callable[[dict[str, Any]], dict[str, Any]] = dict,
        readers: Readers | None = None,
    ) -> None:
        """Creates the folder, or opens the run in it to resume it.

        Args:
            config: the settings to run with.
            upgrade: turns the saved settings of an older run into today's form.
            readers: which phases read a setting; a setting that no finished phase has read may change. None lets none.

        Raises:
            ConfigError: the folder holds a run with other settings; names the settings that differ.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        (self.root / "logs").mkdir(exist_ok=True)
        path = self.root / "config.yaml"
        text = yaml.safe_dump(config, sort_keys=False)
        if path.exists():
            changes = sorted(_differences(upgrade(_saved_settings(path)), yaml.safe_load(text)), key=lambda c: c.key)
            if refused := [c for c in changes if readers is None or self._readers(c, readers)]:
                raise ConfigError(
                    f"{self.root} holds a run with other settings ({', '.join(c.key for c in refused)}); to resume it, "
                    f"use the same settings{_as_overrides(refused)}, or use another out_dir"
                    + self._more_iterations(refused, readers)
                )
            if changes:
                log.info("changed settings, which no finished phase has read: %s", ", ".join(c.key for c in changes))
                write_text(path, text)
        else:
            write_text(path, text)
        for leftover in self.root.rglob(f"*{PARTIAL}"):
            if TRAINING not in leftover.relative_to(self.root).parts:  # an interrupted training resumes there
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()

    def _readers(self, change: _Change, readers: Readers) -> list[str]:
        """Returns the finished phases that have read a setting."""
        patterns = readers_of(change.key, readers, change.old, change.new)
        found = (path for pattern in patterns for path in self.root.glob(pattern))
        return [path.relative_to(self.root).as_posix() for path in found if path.suffix != PARTIAL]

    def _more_iterations(self, refused: list[_Change], readers: Readers | None) -> str:
        """Returns what to do where fewer iterations are refused."""
        for change in refused:
            if change.key.rpartition(".")[2] == "num_iterations" and readers and change.new < change.old:
                there = ", ".join(sorted(self._readers(change, readers)))
                return f"; {change.key} can be raised, but {change.new} is too few for what is finished: {there}"
        return ""

    def remove(self, name: str, why: str) -> None:
        """Removes a finished phase, or a folder of phases, whole or not at all, and its wall times; logs why."""
        log.info("%s: removed, %s", name, why)
        timings = read_timings(self.root)
        kept = [timing for timing in timings if not f"{timing.phase}/".startswith(f"{name}/")]
        if kept != timings:
            write_timings(self.root, kept)
        path = self.path(name)
        shutil.rmtree(path.rename(path.with_name(path.name + PARTIAL)))

    def inside(self, name: str) -> RunDirectory:
        """Returns the run in the folder ``name`` of this one, which has no driver of its own."""
        return RunDirectory(self.path(name), self)

    def path(self, name: str) -> Path:
        """Returns the path of a folder or file of the run, whether or not it exists."""
        return self.root / name

    def has(self, name: str) -> bool:
        """Returns whether the phase ``name`` is finished."""
        return self.path(name).exists()

    def once(self, name: str, make: Callable[[Path], object]) -> Path:
        """Returns the folder ``name``, made by ``make(folder)`` unless it exists.

        ``make`` writes a folder beside it, which gets a manifest and is renamed to ``name`` when everything is on disk.
        An interrupted ``make`` leaves nothing under ``name``.
        """
        final = self.path(name)
        if final.exists():
            log.info("%s: already done", name)
            return final
        began = time.time()
        log.info("%s: started", name)
        self._tell(name)
        with _room_for(name, self.root), new_folder(final, partial=final.name + PARTIAL) as partial:
            partial.rmdir()  # ``make`` creates it itself
            make(partial)
            write_manifest(partial)
            make_private(partial)
            # before the rename: a kill between repeats the line, never loses it
            note_timing(self.root, Timing(name, round(time.time() - began, 2), time.time()))
        self._tell(None)
        log.info("%s: done in %.0f s", name, time.time() - began)
        return final

    def timings(self) -> dict[str, float]:
        """Returns the wall seconds of each finished phase."""
        return {timing.phase: timing.seconds for timing in read_timings(self.root)}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Locks the folder against a second driver; the lock is released when the process ends, however it ends.

        The lock's file says what the driver is doing, and at the end how it ended (:meth:`state`). All files of the run
        are private (``rlenv.data.private``). Where the file system does not pass locks on to other hosts, a driver
        there is known by its signs of life.

        Raises:
            ConfigError: another driver is running in the folder; names its process, its host and its start.
        """
        with private_files():
            self.root.mkdir(parents=True, exist_ok=True)
            make_private(self.root)
            try:
                with self._lock.held():
                    yield
            finally:
                make_private(self.root)

    def state(self) -> DriverState:
        """Returns what the run's driver is doing or how it ended; from another process."""
        return self._lock.state()

    def _tell(self, phase: str | None) -> None:
        """Tells what is being made, also to the driver of the outer run."""
        self._lock.tell("running", phase)
        if self._outer is not None:
            where = self.root.relative_to(self._outer.root).as_posix()
            self._outer._tell(phase and f"{where}/{phase}")


@contextmanager
def _room_for(name: str, root: Path) -> Iterator[None]:
    """Raises a ``PhaseError`` with the way out where a phase finds the disk full."""
    try:
        yield
    except (OSError, RlenvError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        if not isinstance(cause, OSError) or cause.errno not in NO_ROOM:
            raise
        raise PhaseError(
            f"{name}: {root} has no room ({(cause.strerror or 'the disk is full').lower()}); make room and run the "
            "same command again: finished phases are kept, and this one is made anew"
        ) from error


def _saved_settings(path: Path) -> dict[str, Any]:
    try:
        saved = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise DataError([damaged(path, error)]) from None
    if not isinstance(saved, dict):
        raise DataError([damaged(path, ValueError("no settings"))])
    return saved


@dataclass(frozen=True)
class _Change:
    """A setting whose value differs from the saved one."""

    key: str
    old: Any
    new: Any


def _differences(old: Any, new: Any, prefix: str = "") -> Iterator[_Change]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in old.keys() | new.keys():
            yield from _differences(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else str(key))
    elif old != new:
        yield _Change(prefix, old, new)


def _as_overrides(changes: Sequence[_Change]) -> str:
    """Returns the saved values as they are given on the command line; of whole sections none."""
    single = [c for c in changes if not isinstance(c.old, dict | list)]
    return f" ({' '.join(f'{c.key}={_as_text(c.old)}' for c in single)})" if single else ""


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
