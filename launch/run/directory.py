"""The run directory: a phase's output folder appears whole or not at all, so resuming means skipping what exists.

    run.once("base/sessions", write)   calls write(partial_folder) unless base/sessions exists, then renames it

Independent of what the phases do.
"""

from __future__ import annotations

import json
import logging
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import yaml

from launch.run.manifest import write_manifest
from launch.run.readers import Readers, readers_of
from rlenv.core.errors import ConfigError, DataError, RlenvError
from rlenv.core.files import damaged, new_folder, read_json_lines, write_text
from rlenv.data.private import make_private, private_files

log = logging.getLogger(__name__)

PARTIAL = ".partial"
TRAINING = "training"
"""Folder of a run for the checkpoints of training phases in progress."""

LOCK = ".lock"
LOCK_TRIES = 5


@dataclass(frozen=True)
class DriverState:
    """What the driver of a run is doing, or how it ended."""

    state: str
    """not started, running, finished, failed, interrupted, killed (it told nothing), stopped (a run of an older
    version)."""
    phase: str | None = None
    """The folder that is being made, or that was."""
    since: float | None = None
    """Unix time of the newest change."""
    host: str | None = None
    error: str | None = None


class RunDirectory:
    """One run's folder: its settings, the outputs of its phases, its logs and timings."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root).absolute()
        self._lock: TextIO | None = None
        self._phase: str | None = None

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
            differing = sorted(_differences(upgrade(_saved_settings(path)), yaml.safe_load(text)))
            if refused := [key for key in differing if readers is None or self._was_read(key, readers)]:
                raise ConfigError(
                    f"{self.root} holds a run with other settings ({', '.join(refused)}); "
                    "use the same settings to resume it, or another out_dir"
                )
            if differing:
                log.info("changed settings, which no finished phase has read: %s", ", ".join(differing))
                write_text(path, text)
        else:
            write_text(path, text)
        for leftover in self.root.rglob(f"*{PARTIAL}"):
            if TRAINING not in leftover.relative_to(self.root).parts:  # an interrupted training resumes there
                shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()

    def _was_read(self, key: str, readers: Readers) -> bool:
        """Returns whether a finished phase has read a setting."""
        found = (path for pattern in readers_of(key, readers) for path in self.root.glob(pattern))
        return any(path.suffix != PARTIAL for path in found)

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
        self._tell("running", name)
        with new_folder(final, partial=final.name + PARTIAL) as partial:
            partial.rmdir()  # ``make`` creates it itself
            make(partial)
            write_manifest(partial)
            make_private(partial)
            self._note_time(
                name, time.time() - began
            )  # before the rename: a kill between repeats the line, never loses it
        self._tell("running")
        log.info("%s: done in %.0f s", name, time.time() - began)
        return final

    def _note_time(self, name: str, seconds: float) -> None:
        with open(self.root / "timings.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps({"phase": name, "seconds": round(seconds, 2), "ended": time.time()}) + "\n")

    def timings(self) -> dict[str, float]:
        """Returns the wall seconds of each finished phase."""
        path = self.root / "timings.jsonl"
        if not path.exists():
            return {}
        rows = read_json_lines(path)
        return {row["phase"]: row["seconds"] for row in rows}

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Locks the folder against a second driver; the lock is released when the process ends, however it ends.

        The lock's file says what the driver is doing, and at the end how it ended (:meth:`state`). All files of the run
        are private (``rlenv.data.private``).
        """
        with private_files():
            self.root.mkdir(parents=True, exist_ok=True)
            make_private(self.root)
            try:
                with self._locked():
                    yield
            finally:
                make_private(self.root)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with open(self.root / LOCK, "a", encoding="utf-8") as file:
            if not _taken(file):
                raise ConfigError(
                    f"{self.root}: another driver is running in this folder; wait for it, or use another out_dir"
                )
            self._lock = file
            self._tell("running")
            try:
                yield
            except BaseException as error:
                interrupted = isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit)
                # The text of other errors is not ours and could quote a message.
                cause = str(error) if isinstance(error, RlenvError) else type(error).__name__
                self._tell("interrupted" if interrupted else "failed", self._phase, None if interrupted else cause)
                raise
            else:
                self._tell("finished")
            finally:
                self._lock = None

    def _tell(self, state: str, phase: str | None = None, error: str | None = None) -> None:
        """Writes what the driver does to the lock's file, in place: a new file would not be locked."""
        self._phase = phase
        if self._lock is None:
            return
        told = {"state": state, "phase": phase, "since": time.time(), "host": platform.node(), "error": error}
        self._lock.truncate(0)
        self._lock.write(json.dumps(told) + "\n")
        self._lock.flush()

    def state(self) -> DriverState:
        """Returns what the run's driver is doing or how it ended; from another process."""
        import fcntl

        path = self.root / LOCK
        if not path.exists():
            return DriverState("not started")
        with open(path, encoding="utf-8") as file:
            try:
                told = json.loads(file.read() or "{}")
            except json.JSONDecodeError:  # it is being written
                told = {}
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError:
                alive = True
            else:
                alive = False
        state = str(told.get("state", "running" if alive else "stopped"))
        if state == "running" and not alive:
            state = "killed"
        return DriverState(state, told.get("phase"), told.get("since"), told.get("host"), told.get("error"))


def _taken(file: TextIO) -> bool:
    """Returns whether the lock is ours now; tries for a moment, because :meth:`RunDirectory.state` holds it for one."""
    import fcntl

    for _ in range(LOCK_TRIES):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError:
            time.sleep(0.05)
    return False


def _saved_settings(path: Path) -> dict[str, Any]:
    try:
        saved = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError([damaged(path, error)]) from None
    if not isinstance(saved, dict):
        raise DataError([damaged(path, ValueError("no settings"))])
    return saved


def _differences(old: Any, new: Any, prefix: str = "") -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in old.keys() | new.keys():
            yield from _differences(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else str(key))
    elif old != new:
        yield prefix
