"""The lock of a run directory: one driver at a time, which writes to the lock's file what it does and how it ended.

Where the file system does not pass locks on to other hosts, a driver there is known by its signs of life.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from rlenv.core.errors import ConfigError, RlenvError

log = logging.getLogger(__name__)

LOCK = ".lock"
TRIES = 5
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


class DriverLock:
    """The lock of the run in the folder ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._path = root / LOCK
        self._file: BinaryIO | None = None
        self._began: float | None = None
        self._phase: str | None = None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Holds the lock until the block ends, or until the process does, however it ends; tells how the block ended.

        Raises:
            ConfigError: another driver is running in the folder; names its process, its host and its start.
        """
        with open(self._path, "ab", buffering=0) as file:
            if not _taken(file) or self._lives_elsewhere():
                raise ConfigError(_running(self.root, self.state()))
            self._file, self._began = file, time.time()
            self.tell("running")
            try:
                with _signs_of_life(self._path):
                    yield
            except BaseException as error:
                interrupted = isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit)
                # The text of other errors is not ours and could quote a message.
                cause = str(error) if isinstance(error, RlenvError) else type(error).__name__
                self.tell("interrupted" if interrupted else "failed", self._phase, None if interrupted else cause)
                raise
            else:
                self.tell("finished")
            finally:
                self._file = None

    def tell(self, state: str, phase: str | None = None, error: str | None = None) -> None:
        """Writes what the driver does to the lock's file, in place: a new file would not be locked.

        Does nothing for a lock that this object does not hold.
        """
        self._phase = phase
        if self._file is None:
            return
        told = {"state": state, "phase": phase, "since": time.time(), "host": platform.node(), "error": error,
                "pid": os.getpid(), "began": self._began}  # fmt: skip
        with contextlib.suppress(OSError):  # of a full disk tells what is written next
            self._file.truncate(0)
            self._file.write(json.dumps(told).encode() + b"\n")

    def state(self) -> DriverState:
        """Returns what the run's driver is doing or how it ended; from another process."""
        if not self._path.exists():
            return DriverState("not started")
        told = _told(self._path)
        alive = _is_locked(self._path)
        if not alive and told.get("host", platform.node()) != platform.node():  # its lock may be unknown here
            alive = time.time() - self._path.stat().st_mtime < BEATS * BEAT_S
        state = str(told.get("state", "running" if alive else "stopped"))
        if state == "running" and not alive:
            state = "killed"
        fields = {name: told.get(name) for name in ("phase", "since", "host", "error", "pid", "began")}
        return DriverState(state, **fields)

    def _lives_elsewhere(self) -> bool:
        """Returns whether a driver that this process's lock does not exclude gives a sign of life.

        The lock of a process on this host is released with the process. One of another host may be unknown here.
        """
        told = _told(self._path)
        if told.get("state") != "running":
            return False
        host, pid = told.get("host"), told.get("pid")
        if host == platform.node():
            # a file system without locks
            if isinstance(pid, int) and not _is_locked(self._path) and _is_alive(pid):
                return True
            log.info("the last driver of this folder was killed; its finished phases are kept")
            return False
        log.info("the last driver, on %s, did not end; waiting %.0f s for a sign of life", host, BEATS * BEAT_S)
        before, end = _sign(self._path), time.monotonic() + BEATS * BEAT_S
        while time.monotonic() < end:
            time.sleep(BEAT_S / 5)
            if _sign(self._path) != before:
                return True
        log.info("there was none; its finished phases are kept")
        return False


def _taken(file: BinaryIO) -> bool:
    """Returns whether the lock is ours now; tries for a moment, because :meth:`DriverLock.state` holds it for one."""
    import fcntl

    for _ in range(TRIES):
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
    for _ in range(TRIES):
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
