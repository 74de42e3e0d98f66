"""Proves that an engine serves an adapter version: asks at the canary's places, compares with the trainer's figures.

A pool asks each of its engines at the first request of each version, and again after an engine was restarted, before
any words of the version are used. Independent of Ray.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from actors.engines.config import EngineConfig
from rlenv.core.canary import Comparison, compare, read_canary
from rlenv.core.errors import PhaseError
from rlenv.core.files import read_records, to_line
from rlenv.core.types import Adapter, Generation, Record, Sampling

GREEDY = Sampling(temperature=0.0, max_tokens=1)
Ask = Callable[[tuple[int, ...], Sampling, Adapter], Awaitable[Generation]]
"""An engine's ``generate``: prompt, sampling, adapter."""


class Swap(Record):
    """One swap: an engine's first answers under a version. A row of ``logs/swaps/POOL.jsonl``; no text."""

    engine: str
    adapter: str
    """The version's name."""
    digest: str
    seconds: float
    """From the first request of the version until the engine has answered all places."""
    places: int = 0
    """Places that were compared; 0 where the adapter has no canary (it came from elsewhere) or none fits the engine."""
    gap_mean: float | None = None
    """Mean |engine's log-prob - trainer's|."""
    gap_max: float | None = None
    effect: float | None = None
    """Mean |with the adapter - without it|, by the trainer: about ``gap_mean`` if the base model had answered."""
    tolerance: float | None = None
    tells: bool | None = None
    """Whether the effect is above twice the tolerance, so that the base model would have been noticed."""


async def prove(ask: Ask, engine: str, adapter: Adapter, config: EngineConfig) -> Swap:
    """Returns how an engine's answers under ``adapter`` compare with its trainer's figures.

    Args:
        ask: sends a request to this engine.
        engine: its name, for errors.
        adapter: the version.
        config: its settings.

    Raises:
        PhaseError: they differ by more than the tolerance, so the engine serves something else.
        ConfigError: as raised by ``ask``, where the version is not there or cannot be served.
    """
    began = time.monotonic()
    canary = read_canary(adapter.path)
    prompts = [p for p in canary.prompts if len(p) < config.max_model_len] if canary else []
    if not canary or not prompts:
        return Swap(engine=engine, adapter=adapter.name, digest=adapter.digest, seconds=time.monotonic() - began)
    first = await ask(prompts[0], GREEDY, adapter)  # loads the version
    rest = await asyncio.gather(*[ask(prompt, GREEDY, adapter) for prompt in prompts[1:]])
    answers = [first, *rest]
    tokens, logprobs = [a.token_ids[0] for a in answers], [a.logprobs[0] for a in answers]
    found = compare(canary, tokens, logprobs, config.served_dtype, config.adapter_tolerance)
    if not found.agrees:
        raise PhaseError(not_served(engine, adapter, found, len(prompts)))
    return Swap(
        engine=engine,
        adapter=adapter.name,
        digest=adapter.digest,
        seconds=time.monotonic() - began,
        places=len(prompts),
        gap_mean=found.gap_mean,
        gap_max=found.gap_max,
        effect=found.effect,
        tolerance=found.tolerance,
        tells=found.tells,
    )


def not_served(engine: str, adapter: Adapter, found: Comparison, places: int) -> str:
    """Returns the message of the error for an engine that serves something else than the version."""
    return (
        f"{engine} does not serve the adapter {adapter.name!r} ({adapter.digest[:12]}) from {adapter.path}: at "
        f"{places} places its log-probs differ from those of the version's trainer by {found.gap_mean:.3g} on average; "
        f"expected {found.tolerance:g} or less. Without the adapter they would differ by about {found.effect:.3g}. "
        "Check that the folder is the trainer's and that the engine's base model is the one that the adapter was "
        "trained on. If both are right, the engine is less exact than expected: raise engines.*.adapter_tolerance"
    )


def swaps_path(log_dir: str | Path, pool: str) -> Path:
    """Returns the file of a pool's swaps."""
    return Path(log_dir) / "swaps" / f"{pool}.jsonl"


def read_swaps(log_dir: str | Path, pool: str) -> list[Swap]:
    """Returns the swaps of a pool, in order; [] where there was none."""
    path = swaps_path(log_dir, pool)
    return read_records(path, Swap) if path.exists() else []


def swap_metrics(swaps: Sequence[Swap]) -> dict[str, float]:
    """Returns how well engines' log-probs under a version agree with its trainer's, over its swaps, and the longest."""
    metrics = {"swap/seconds_max": max(swap.seconds for swap in swaps)} if swaps else {}
    for name in ("gap_mean", "gap_max", "effect"):
        if found := [getattr(swap, name) for swap in swaps if getattr(swap, name) is not None]:
            metrics[f"swap/{name}"] = max(found)
    return metrics


class Proofs:
    """The proofs of one pool: each version is proved once for each process of each engine. Can be pickled.

    Args:
        path: JSON lines of ``Swap``, to which each swap is appended.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._done: set[tuple[str, int, str]] = set()
        self._running: dict[tuple[str, int, str], asyncio.Task[Swap]] = {}

    async def require(self, engine: str, life: int, adapter: Adapter, make: Callable[[], Awaitable[Swap]]) -> None:
        """Returns when an engine is proved to serve a version; all requests of a new version wait for one proof.

        Args:
            engine: the engine's name.
            life: the number of its restarts.
            adapter: the version.
            make: makes the proof.

        Raises:
            PhaseError: see ``prove``.
        """
        key = engine, life, adapter.digest
        if key in self._done:
            return
        task = self._running.get(key)
        if task is None or task.done() or task.get_loop() is not asyncio.get_running_loop():
            task = self._running[key] = asyncio.ensure_future(make())
            task.add_done_callback(lambda ended: self._ended(key, ended))
        await asyncio.shield(task)

    def _ended(self, key: tuple[str, int, str], task: asyncio.Task[Swap]) -> None:
        if self._running.get(key) is task:
            del self._running[key]
        if task.cancelled() or task.exception() is not None:
            return
        self._done.add(key)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab") as file:
            file.write(to_line(task.result().model_dump(mode="json", exclude_none=True)))

    def __getstate__(self) -> dict[str, Any]:
        return {"_path": self._path, "_done": set(self._done), "_running": {}}
