"""Signs of progress of this process, by which its supervisor tells one that hangs from one that is slow.

What works calls ``progressed``: after a step of a training, a message, an answer. What supervises asks for
``silence_s``. A process that waits for another one, which is supervised itself, does not count as silent: the other
may be. Knows nothing of who asks.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class _Signs:
    last = time.monotonic()
    waits: set[object] = set()  # noqa: RUF012  # of the process


def progressed() -> None:
    """Notes a sign of progress."""
    _Signs.last = time.monotonic()


@contextmanager
def waiting_for_supervised() -> Iterator[None]:
    """Excuses this process while it waits for one that is supervised."""
    wait = object()
    _Signs.waits.add(wait)
    try:
        yield
    finally:
        _Signs.waits.discard(wait)
        progressed()


def silence_s() -> float:
    """Returns the seconds since the last sign of progress, or since this module was imported; 0 in an excused wait."""
    return 0.0 if _Signs.waits else time.monotonic() - _Signs.last
