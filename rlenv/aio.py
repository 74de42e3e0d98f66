"""The one background event loop on which synchronous faces (Gymnasium, the driver) run async code."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from functools import cache
from typing import TypeVar

T = TypeVar("T")


@cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="rlenv-aio", daemon=True).start()
    return loop


def run(work: Coroutine[object, object, T]) -> T:
    """Returns the coroutine's result. One loop for the process, so engines and locks may live across calls."""
    future = asyncio.run_coroutine_threadsafe(work, _loop())
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise
