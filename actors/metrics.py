"""Ray metrics of engines and conversations, which each node offers to Prometheus. Names, counts and seconds, no text.

They are recorded in the process that sends the requests (the driver, or a rollout actor). Where Ray is not running,
nothing is recorded.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from functools import cache
from typing import Any

import ray
from ray.util.metrics import Counter, Gauge, Histogram

from rlenv.core.types import Adapter
from rlenv.env.collect import Collected, Episode

SECONDS = [0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0]
"""Bounds of the histogram of swaps."""


@cache
def _instrument(kind: type, name: str, description: str, *tags: str) -> Any:
    options = {"boundaries": SECONDS} if kind is Histogram else {}
    return kind(f"rlenv_{name}", description=description, tag_keys=tags, **options)


def engine_queue(engine: str, requests: int) -> None:
    """Records the number of requests that an engine is answering or has yet to answer."""
    if ray.is_initialized():
        found = _instrument(Gauge, "engine_queue", "Requests that wait for an engine or are answered by it.", "engine")
        found.set(requests, {"engine": engine})


def engine_tokens(engine: str, prompt: int, sampled: int) -> None:
    """Adds the tokens of an answered request; ``rate`` over them is tokens a second."""
    if ray.is_initialized():
        found = _instrument(Counter, "engine_tokens", "Tokens of answered requests.", "engine", "kind")
        for kind, tokens in (("prompt", prompt), ("sampled", sampled)):
            if tokens:
                found.inc(tokens, {"engine": engine, "kind": kind})


def engine_adapter(engine: str, adapter: Adapter, before: Adapter | None, seconds: float) -> None:
    """Records that ``adapter`` is an engine's newest version (1) in place of ``before`` (0), and the swap's seconds."""
    if ray.is_initialized():
        about = "1 for the newest adapter version that an engine serves, 0 for the others."
        found = _instrument(Gauge, "engine_adapter", about, "engine", "adapter", "digest")
        for version, value in ((before, 0), (adapter, 1)):
            if version is not None:
                found.set(value, {"engine": engine, "adapter": version.name, "digest": version.digest[:12]})
        swaps = _instrument(Histogram, "adapter_swap_seconds", "Seconds of a swap of an adapter.", "engine")
        swaps.observe(seconds, {"engine": engine})


class Conversations:
    """Counts conversations of a collection: ``collect(agent, make_core, counts.begun(episodes))``, ``counts.ended``.

    Args:
        what: the collection's name, such as a simulator's version.
    """

    def __init__(self, what: str) -> None:
        self._tags = {"collection": what}
        self._running = 0

    def begun(self, episodes: Iterable[Episode]) -> Iterator[Episode]:
        """Yields the episodes; each counts as in flight once it is taken."""
        for episode in episodes:
            self._show(1)
            yield episode

    async def ended(self, results: AsyncIterator[Collected]) -> AsyncIterator[Collected]:
        """Yields the results; each counts as finished or failed."""
        try:
            async for result in results:
                self._show(-1)
                if ray.is_initialized():
                    about = "Conversations that have ended, by failure ('none' if there was none)."
                    found = _instrument(Counter, "conversations", about, "collection", "failure")
                    found.inc(1, self._tags | {"failure": result.failure or "none"})
                yield result
        finally:
            self._show(-self._running)

    def _show(self, change: int) -> None:
        self._running += change
        if ray.is_initialized():
            about = "Conversations in flight."
            _instrument(Gauge, "conversations_in_flight", about, "collection").set(self._running, self._tags)
