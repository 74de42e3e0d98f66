"""The process of a supervised actor: one object, created by ``start``, and one log file.

All output of the process and its children goes to that file, so the driver's console stays clean and an error can show
a dead process's last lines. Independent of what the object is.
"""

from __future__ import annotations

import asyncio
import faulthandler
import inspect
import logging
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rlenv.core.progress import progressed, silence_s

TAIL_LINES = 25
TAIL_BYTES = 64 * 1024


class NotStarted(Exception):
    """The process is new and its object has not been created yet."""


class Process:
    """The actor's class. The constructor does little, because Ray calls it again by itself after a death."""

    def __init__(self, make: Callable[[], Any], log: str) -> None:
        redirect_output(log)
        faulthandler.enable()
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s", force=True)
        self._make = make
        self._object: Any = None
        self._starting = asyncio.Lock()
        self._thread = ThreadPoolExecutor(max_workers=1)

    async def start(self) -> int:
        """Creates the object unless it exists; returns the process id."""
        async with self._starting:
            if self._object is None:
                made = self._make()
                if hasattr(made, "start"):
                    await self._run(made.start)
                self._object = made
        return os.getpid()

    async def call(self, method: str, args: Sequence[Any]) -> Any:
        """Returns what the object's method returns."""
        if self._object is None:
            raise NotStarted("its process was restarted")
        try:
            return await self._run(getattr(self._object, method), *args)
        finally:
            progressed()

    async def silence_s(self) -> float:
        """Returns the seconds since the process's last sign of progress."""
        return silence_s()

    async def close(self) -> None:
        """Closes the object."""
        if hasattr(self._object, "close"):
            await self._run(self._object.close)

    async def _run(self, function: Callable[..., Any], *args: Any) -> Any:
        if inspect.iscoroutinefunction(function):
            return await function(*args)
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)


def thread_environment(threads: int) -> dict[str, str]:
    """Returns the environment variables that limit the compute threads of a process."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
    return dict.fromkeys(names, str(threads))


def redirect_output(path: str) -> None:
    """Redirects file descriptors 1 and 2, also of child processes, to the end of ``path``; creates its folder."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def tail(path: str, lines: int = TAIL_LINES) -> str:
    """Returns the last ``lines`` lines of a log, or a note that it is missing or empty."""
    try:
        with open(path, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError as error:
        return f"(no log: {error.strerror})"
    return "\n".join(text.splitlines()[-lines:]) or "(the log is empty)"
