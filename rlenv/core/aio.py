"""Async helpers: a background event loop for synchronous callers, and bounded concurrency over many items.

Independent of conversations.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable
from functools import cache
from itertools import islice
from typing import TypeVar

from rlenv.core.errors import ConfigError

T = TypeVar("T")
Item = TypeVar("Item")


@cache
def _loop() -> asyncio.AbstractEventLoop:
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="rlenv-aio", daemon=True).start()
    return loop


if hasattr(os, "register_at_fork"):  # a fork has the parent's loop and not its thread, so it would wait for ever
    os.register_at_fork(after_in_child=_loop.cache_clear)


def run(work: Coroutine[object, object, T]) -> T:
    """Returns the coroutine's result. All calls of a process share one loop, so engines and locks outlive a call.

    A forked process has a loop of its own.
    """
    future = asyncio.run_coroutine_threadsafe(work, _loop())
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


async def as_finished(
    work: Callable[[Item], Awaitable[T]], items: Iterable[Item], concurrency: int
) -> AsyncGenerator[T, None]:
    """Yields the result of ``work`` for each item as it finishes, with at most ``concurrency`` items in memory.

    Items are read lazily. A result counts until the consumer takes it, so a slow consumer slows the work down. An
    exception in ``work``, or a consumer that stops, cancels the running tasks.

    Raises:
        ConfigError: ``concurrency`` is below 1.
    """
    if concurrency < 1:
        raise ConfigError(f"concurrency: expected 1 or more, got {concurrency}")

    async def one(item: Item) -> T:
        return await work(item)

    waiting = iter(items)
    running: set[asyncio.Task[T]] = set()
    finished: asyncio.Queue[asyncio.Task[T]] = asyncio.Queue()
    try:
        while True:
            for item in islice(waiting, concurrency - len(running)):
                task = asyncio.create_task(one(item))
                running.add(task)
                task.add_done_callback(finished.put_nowait)
            if not running:
                return
            task = await finished.get()
            running.remove(task)
            yield task.result()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def all_of(
    work: Callable[[Item], Awaitable[T]], items: Iterable[Item], concurrency: int | None = None
) -> list[T]:
    """Returns the results of ``work`` in the order of the items; see ``as_finished``. None means no limit.

    Unlike with ``asyncio.gather``, the first error cancels the other tasks before it is raised.
    """
    items = list(items)
    most = max(1, len(items)) if concurrency is None else concurrency

    async def numbered(item: tuple[int, Item]) -> tuple[int, T]:
        return item[0], await work(item[1])

    found = dict([pair async for pair in as_finished(numbered, enumerate(items), most)])
    return [found[i] for i in range(len(found))]
