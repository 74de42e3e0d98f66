"""A pool of equal engines with the interface of one: routes requests and counts tokens.

Implements ``rlenv.core.protocols.Engine`` in the process that created it; the engines are Ray actors. Requests with the
same conversation key go to the same replica, which has their common prefix in its cache.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from actors import metrics
from actors.adapter_proof import Proofs, Swap, prove, swaps_path
from actors.engines.actor import EngineActor, actor_environment
from actors.engines.config import EngineConfig
from actors.engines.requests import check_prompt
from actors.supervision import Supervised, start_all
from rlenv.core.types import Adapter, Generation, Sampling

MAX_HOMES = 100_000  # conversations whose replica is remembered


@dataclass(frozen=True)
class PoolStats:
    """The counts of a pool since its start."""

    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Prompt tokens found in a prefix cache."""
    sampled_tokens: int = 0
    busy_s: float = 0.0
    """Wall time during which at least one request was in flight."""
    restarts: int = 0


class EnginePool:
    """``config.replicas`` engines behind one ``generate``.

    ``with EnginePool(config) as pool`` or ``async with``, or ``start`` and ``close``; one event loop at a time.
    """

    def __init__(self, config: EngineConfig) -> None:
        self.config = config = replace(config, log_dir=str(Path(config.log_dir).resolve()))
        self._replicas = [_replica(config, index) for index in range(config.replicas)]
        self._proofs = Proofs(swaps_path(config.log_dir, config.name))
        self._newest: dict[str, Adapter] = {}
        self._homes: OrderedDict[str, Supervised] = OrderedDict()
        self._counts = {"requests": 0, "prompt_tokens": 0, "cached_tokens": 0, "sampled_tokens": 0}
        self._load = dict.fromkeys((replica.name for replica in self._replicas), 0)
        """Replies that each replica has yet to give, and all together."""
        self._in_flight = 0
        self._busy_s = 0.0
        self._busy_since = 0.0

    # ------------------------------------------------------------------------------------------- life

    def start(self) -> EnginePool:
        """Starts all replicas at once and returns when all are ready.

        Raises:
            ConfigError: the cluster lacks the requested CPUs or GPUs, or an engine refuses its settings.
            EngineError: a replica failed or was not ready in time.
        """
        start_all(self._replicas)
        return self

    def close(self) -> None:
        """Ends all replicas and frees their resources; safe to call twice."""
        for replica in self._replicas:
            replica.close()

    def __enter__(self) -> EnginePool:
        return self.start()

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    async def __aenter__(self) -> EnginePool:
        return await asyncio.to_thread(self.start)

    async def __aexit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await asyncio.to_thread(self.close)

    # --------------------------------------------------------------------------------------- requests

    async def generate(
        self,
        token_ids: Sequence[int],
        sampling: Sampling,
        adapter: Adapter | None = None,
        conversation: str | None = None,
    ) -> Generation:
        """Returns one sampled continuation of ``token_ids``; see ``generate_each``."""
        (reply,) = await self.generate_each(token_ids, sampling, (sampling.seed,), adapter, conversation)
        return reply

    async def generate_each(
        self,
        token_ids: Sequence[int],
        sampling: Sampling,
        seeds: Sequence[int | None],
        adapter: Adapter | None = None,
        conversation: str | None = None,
    ) -> list[Generation]:
        """Returns a continuation of ``token_ids`` for each seed, by one call; see ``rlenv.core.protocols.Engine``.

        If the replica dies, the request is repeated after its restart; with seeds, it gives the same tokens. Before
        the first words of a version, the replica is proved to serve it (``actors.adapter_proof``).

        Raises:
            PhaseError: it serves something else.
        """
        check_prompt(token_ids, sampling, self.config.max_model_len)
        replica = self._route(conversation)
        self._enter(replica, len(seeds))
        try:
            replies = await self._ask(replica, tuple(token_ids), sampling, tuple(seeds), adapter, conversation)
        finally:
            self._leave(replica, len(seeds))
        sampled = sum(len(reply.token_ids) for reply in replies)
        metrics.engine_tokens(replica.name, len(seeds) * len(token_ids), sampled)
        for name, increment in (
            ("requests", len(seeds)),
            ("prompt_tokens", len(seeds) * len(token_ids)),
            ("cached_tokens", sum(reply.cached_tokens for reply in replies)),
            ("sampled_tokens", sampled),
        ):
            self._counts[name] += increment
        return replies

    async def _ask(
        self,
        replica: Supervised,
        token_ids: tuple[int, ...],
        sampling: Sampling,
        seeds: tuple[int | None, ...],
        adapter: Adapter | None,
        conversation: str | None,
    ) -> list[Generation]:
        life = -1
        if adapter is not None:
            life = await self._proved(replica, adapter)
        replies = await self._call(replica, token_ids, sampling, seeds, adapter, conversation)
        if adapter is not None and replica.restarts != life:  # another process has answered
            await self._proved(replica, adapter)
        return replies

    @staticmethod
    async def _call(replica: Supervised, *request: Any) -> list[Generation]:
        replies: list[Generation] = await replica.call("generate_each", *request)
        return replies

    async def _proved(self, replica: Supervised, adapter: Adapter) -> int:
        """Returns the number of the replica's restarts, in which it is proved to serve the version."""
        life = replica.restarts

        async def ask(prompt: tuple[int, ...], sampling: Sampling, adapter: Adapter) -> Generation:
            (reply,) = await self._call(replica, prompt, sampling, (sampling.seed,), adapter, None)
            return reply

        async def make() -> Swap:
            swap = await prove(ask, replica.name, adapter, self.config)
            metrics.engine_adapter(replica.name, adapter, self._newest.get(replica.name), swap.seconds)
            self._newest[replica.name] = adapter
            return swap

        if self.config.backend != "scripted":
            await self._proofs.require(replica.name, life, adapter, make)
        return life

    def _route(self, conversation: str | None) -> Supervised:
        """Returns the conversation's replica, until that has many more replies to give than the idlest one."""
        home = None if conversation is None else self._homes.pop(conversation, None)
        most = max(2, self.config.max_num_seqs // 4)
        if home is None or self._load_of(home) > most:  # else no other can be idler by so much
            idlest = min(self._replicas, key=self._load_of)
            if home is None or self._load_of(home) - self._load_of(idlest) > most:
                home = idlest
        if conversation is not None:
            self._homes[conversation] = home
            if len(self._homes) > MAX_HOMES:
                self._homes.popitem(last=False)
        return home

    # ------------------------------------------------------------------------------------------ counts

    @property
    def pids(self) -> list[int]:
        """Process ids of the replicas' actors, each on its own node."""
        return [replica.pid for replica in self._replicas]

    def stats(self) -> PoolStats:
        """Returns the counts so far."""
        now = time.monotonic() - self._busy_since if self._in_flight else 0.0
        restarts = sum(replica.restarts for replica in self._replicas)
        return PoolStats(busy_s=self._busy_s + now, restarts=restarts, **self._counts)

    def _load_of(self, replica: Supervised) -> int:
        return self._load[replica.name]

    def _enter(self, replica: Supervised, replies: int) -> None:
        if not self._in_flight:
            self._busy_since = time.monotonic()
        self._count(replica, replies)

    def _leave(self, replica: Supervised, replies: int) -> None:
        self._count(replica, -replies)
        if not self._in_flight:
            self._busy_s += time.monotonic() - self._busy_since

    def _count(self, replica: Supervised, replies: int) -> None:
        self._load[replica.name] += replies
        self._in_flight += replies
        metrics.engine_queue(replica.name, self._load[replica.name])


def _replica(config: EngineConfig, index: int) -> Supervised:
    return Supervised(
        f"engine {config.name}-{index}",
        partial(EngineActor, config),
        log=config.log_path(index),
        max_restarts=config.max_restarts,
        startup_timeout_s=config.startup_timeout_s,
        answer_timeout_s=config.answer_timeout_s,
        num_cpus=config.num_cpus,
        num_gpus=config.num_gpus,
        runtime_env={"env_vars": actor_environment(config)},
    )
