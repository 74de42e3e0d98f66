"""The run directory: a phase's output folder appears whole or not at all, so resuming means skipping what exists.

    run.once("base/sessions", write)   calls write(partial_folder) unless base/sessions exists, then renames it

Independent of what the phases do.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from launch.run.manifest import write_manifest
from launch.run.readers import Readers, readers_of
from rlenv.core.errors import ConfigError, DataError, PhaseError, RlenvError
from rlenv.core.files import NO_ROOM, are_numbers, damaged, new_folder, read_json_lines, write_text
from rlenv.data.private import make_private, private_files

log = logging.getLogger(__name__)

PARTIAL = ".partial"
TRAINING = "training"
"""Folder of a run for the checkpoints of training phases in progress."""

TIMINGS = "timings.jsonl"
"""File with the wall time of each finished phase."""
LOCK = ".lock"
LOCK_TRIES = 5
BEAT_S = 10.0
"""Seconds between the signs of life of a driver: it touches its lock's file."""
BEATS = 3
"""A driver without a sign of life for so many beats is dead."""


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
    pid: int | None = None
    """The driver's process on ``host``."""
    began: float | None = None
    """Unix time when the driver started."""


class RunDirectory:
    """One run's folder: its settings, the outputs of its phases, its logs and timings.

    Args:
        root: the folder.
        outer: the run whose driver makes this one's phases and tells them as its own; None has a driver itself.
    """

    def __init__(self, root: str | Path, outer: RunDirectory | None = None) -> None:
        self.root = Path(root).absolute()
        self._outer = outer
        self._lock: BinaryIO | None = None
        self._began: float | None = None
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
            changes = sorted(_differences(upgrade(_saved_settings(path)), yaml.safe_load(text)), key=lambda c: c.key)
            if refused := [c for c in changes if readers is None or self._readers(c, readers)]:
                raise ConfigError(
                    f"{self.root} holds a run with other settings ({', '.join(c.key for c in refused)}); "
                    "use the same settings to resume it, or another out_dir" + self._more_iterations(refused, readers)
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
        rows = self._time_rows()
        kept = [row for row in rows if not f"{row['phase']}/".startswith(f"{name}/")]
        if kept != rows:
            write_text(self.root / TIMINGS, "".join(json.dumps(row) + "\n" for row in kept))
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
        self._tell("running", name)
        with _room_for(name, self.root), new_folder(final, partial=final.name + PARTIAL) as partial:
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
        with open(self.root / TIMINGS, "a", encoding="utf-8") as file:
            file.write(json.dumps({"phase": name, "seconds": round(seconds, 2), "ended": time.time()}) + "\n")

    def timings(self) -> dict[str, float]:
        """Returns the wall seconds of each finished phase."""
        return {row["phase"]: row["seconds"] for row in self._time_rows()}

    def _time_rows(self) -> list[dict[str, Any]]:
        path = self.root / TIMINGS
        if not path.exists():
            return []
        return read_json_lines(path, lambda row: isinstance(row["phase"], str) and are_numbers(row["seconds"]))

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
                with self._locked():
                    yield
            finally:
                make_private(self.root)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        path = self.root / LOCK
        with open(path, "ab", buffering=0) as file:
            if not _taken(file) or self._lives_elsewhere(path):
                raise ConfigError(_running(self.root, self.state()))
            self._lock, self._began = file, time.time()
            self._tell("running")
            try:
                with _signs_of_life(path):
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

    def _lives_elsewhere(self, path: Path) -> bool:
        """Returns whether a driver that this process's lock does not exclude gives a sign of life.

        The lock of a process on this host is released with the process. One of another host may be unknown here.
        """
        told = _told(path)
        if told.get("state") != "running":
            return False
        host, pid = told.get("host"), told.get("pid")
        if host == platform.node():
            if isinstance(pid, int) and not _is_locked(path) and _is_alive(pid):  # this file system has no locks
                return True
            log.info("the last driver of this folder was killed; its finished phases are kept")
            return False
        log.info("the last driver, on %s, did not end; waiting %.0f s for a sign of life", host, BEATS * BEAT_S)
        before, end = _sign(path), time.monotonic() + BEATS * BEAT_S
        while time.monotonic() < end:
            time.sleep(BEAT_S / 5)
            if _sign(path) != before:
                return True
        log.info("there was none; its finished phases are kept")
        return False

    def _tell(self, state: str, phase: str | None = None, error: str | None = None) -> None:
        """Writes what the driver does to the lock's file, in place: a new file would not be locked."""
        self._phase = phase
        if self._outer is not None:
            where = self.root.relative_to(self._outer.root).as_posix()
            self._outer._tell(state, phase and f"{where}/{phase}", error)
        if self._lock is None:
            return
        told = {"state": state, "phase": phase, "since": time.time(), "host": platform.node(), "error": error,
                "pid": os.getpid(), "began": self._began}  # fmt: skip
        with contextlib.suppress(OSError):  # of a full disk tells what is written next
            self._lock.truncate(0)
            self._lock.write(json.dumps(told).encode() + b"\n")

    def state(self) -> DriverState:
        """Returns what the run's driver is doing or how it ended; from another process."""
        path = self.root / LOCK
        if not path.exists():
            return DriverState("not started")
        told = _told(path)
        alive = _is_locked(path)
        if not alive and told.get("host", platform.node()) != platform.node():  # its lock may be unknown here
            alive = time.time() - path.stat().st_mtime < BEATS * BEAT_S
        state = str(told.get("state", "running" if alive else "stopped"))
        if state == "running" and not alive:
            state = "killed"
        fields = {name: told.get(name) for name in ("phase", "since", "host", "error", "pid", "began")}
        return DriverState(state, **fields)


def _taken(file: BinaryIO) -> bool:
    """Returns whether the lock is ours now; tries for a moment, because :meth:`RunDirectory.state` holds it for one."""
    import fcntl

    for _ in range(LOCK_TRIES):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except (BlockingIOError, PermissionError):
            time.sleep(0.05)
        except OSError:  # a file system without locks
            return True
    return False


def _is_locked(path: Path) -> bool:
    """Returns whether a process holds the lock."""
    import fcntl

    with open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return True
        except OSError:
            return False
    return False


def _is_alive(pid: int) -> bool:
    """Returns whether a process of this host runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    return True


def _told(path: Path) -> dict[str, Any]:
    """Returns what a driver has written to its lock's file; {} for a moment while it writes."""
    for _ in range(LOCK_TRIES):
        try:
            told = json.loads(path.read_bytes() or b"{}")
        except (OSError, ValueError, RecursionError):
            told = None
        if isinstance(told, dict) and told:
            return told
        if path.stat().st_size == 0:
            break
        time.sleep(0.02)
    return {}


def _sign(path: Path) -> tuple[int, bytes]:
    """Returns what changes with each sign of life; the file is opened, so that NFS asks its server."""
    with open(path, "rb") as file:
        return os.fstat(file.fileno()).st_mtime_ns, file.read()


@contextmanager
def _signs_of_life(path: Path) -> Iterator[None]:
    """Touches a file every ``BEAT_S`` seconds."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(BEAT_S):
            with contextlib.suppress(OSError):
                os.utime(path)

    thread = threading.Thread(target=beat, name="signs of life", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _running(root: Path, driver: DriverState) -> str:
    who = f"process {driver.pid} on {driver.host}" if driver.pid else f"on {driver.host}" if driver.host else ""
    since = time.strftime("since %Y-%m-%d %H:%M:%S UTC", time.gmtime(driver.began)) if driver.began else ""
    details = ", ".join(filter(None, (who, since)))
    return (
        f"{root}: another driver is running in this folder{f' ({details})' if details else ''}; wait for it or stop "
        "it, or use another out_dir"
    )


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
