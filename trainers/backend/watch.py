"""Ends a training's worker, or its controller, that is alive and makes no progress, as if it had died.

A thread of the worker reports every now and then to a small process beside it. When the thread reports silence, or
nothing (the worker is stopped, or something holds the interpreter), that process says so in the worker's log and kills
the worker. What then happens is up to Ray Train. Progress is what ``rlenv.core.progress`` counts.
"""

from __future__ import annotations

import faulthandler
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from rlenv.core.progress import progressed, silence_s

SILENT = "is alive and has made no progress"
"""Words of the log line, by which an error recognises it."""
MOST_REPORT_S = 5.0
"""Seconds between two reports, at most."""
WATCH = f"""
import os, select, signal, sys
worker, limit = int(sys.argv[1]), float(sys.argv[2])
while select.select([0], [], [], limit)[0]:
    said = os.read(0, 4096)
    if not said or b"x" in said:
        sys.exit()  # the worker has ended, or the training has
    if b"!" in said:
        break
if os.getppid() == worker:
    print("worker", worker, "{SILENT} for %g s; killing it" % limit, file=sys.stderr, flush=True)
    os.kill(worker, signal.SIGKILL)
"""
"""The program of the process beside the worker."""


@contextmanager
def watched(answer_timeout_s: float, *, steps: bool = True) -> Iterator[None]:
    """Kills this process if it makes no progress within the block for ``answer_timeout_s`` seconds.

    Args:
        answer_timeout_s: the limit, in seconds.
        steps: False counts a process that can run at all as making progress: for ranks that may wait long for the
            first one, which makes no step either when another rank hangs.
    """
    progressed()
    watch = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", WATCH, str(os.getpid()), str(answer_timeout_s)], stdin=subprocess.PIPE
    )
    assert watch.stdin is not None
    pipe, over = watch.stdin.fileno(), threading.Event()

    def report() -> None:
        while True:
            silent = steps and silence_s() >= answer_timeout_s
            if silent:
                faulthandler.dump_traceback(2)  # where it hangs: names of functions, no data
            with suppress(OSError):  # somebody has ended the process beside: then there is no limit
                os.write(pipe, b"!" if silent else b".")
            if silent or over.wait(min(MOST_REPORT_S, answer_timeout_s / 10)):
                return

    thread = threading.Thread(target=report, name="watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        with suppress(OSError):
            os.write(pipe, b"x")  # forks of this process keep the pipe open
        watch.wait()
        watch.stdin.close()


def controller_watch(answer_timeout_s: float) -> Any:
    """Returns Ray Train's callback that has the controller of a training killed when it cannot run at all (a stop)."""
    from ray.train.v2._internal.execution.callback import ControllerCallback

    class ControllerWatch(ControllerCallback):
        def after_controller_start(self, train_run_context: Any) -> None:
            self._watch = watched(answer_timeout_s, steps=False)
            self._watch.__enter__()

        async def before_controller_shutdown(self) -> None:
            self._watch.__exit__(None, None, None)

    return ControllerWatch()
