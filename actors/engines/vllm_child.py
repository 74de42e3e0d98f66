"""Executors for vLLM's child processes, which ensure that no child outlives its parent.

Imported by vLLM itself, by name (``engine_args``), in the engine core; needs vLLM. Linux's PR_SET_PDEATHSIG ends the
engine core when the process that started it dies in any way, including SIGKILL. Other systems rely on vLLM's own means.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from vllm.v1.executor.multiproc_executor import MultiprocExecutor
from vllm.v1.executor.uniproc_executor import UniProcExecutor

PR_SET_PDEATHSIG = 1


class InlineExecutor(UniProcExecutor):
    """Runs the model in the engine core itself: only one child process and the fastest start."""

    def _init_executor(self) -> None:
        die_with_parent()
        super()._init_executor()


class ProcessExecutor(MultiprocExecutor):
    """Runs one more process per tensor-parallel rank; vLLM ends these when the engine core's pipe closes."""

    def _init_executor(self) -> None:
        die_with_parent()
        super()._init_executor()


def die_with_parent() -> None:
    """Makes the kernel kill this process when its parent dies; exits at once if the parent is dead already."""
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() == 1:
        os._exit(1)
