"""Puts everything a process and its children print into one file of ours, and reads its end back.

So the driver's console stays clean, and a dead engine's last lines can be shown in the error.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

TAIL_LINES = 25
TAIL_BYTES = 64 * 1024


def redirect_output(path: str) -> None:
    """Sends file descriptors 1 and 2 (hence the children's too) to the end of ``path``; makes its folder."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def tail(path: str, lines: int = TAIL_LINES) -> str:
    """Returns the last ``lines`` lines of a log; what is missing or empty says so in words."""
    try:
        with open(path, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError as error:
        return f"(no log: {error.strerror})"
    return "\n".join(text.splitlines()[-lines:]) or "(the log is empty)"
