"""A pool of equal engines that looks like one: routes, bounds, retries and counts.

Implements ``rlenv.core.protocols.Engine`` in the process that made it; the engines are Ray actors. Knows nothing of
conversations but their keys: requests of one conversation go to the replica that holds their common prefix.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

from actors.capacity import check_capacity
from actors.engines.config import EngineConfig
from actors.engines.requests import check_prompt
from actors.supervision import Replica, ReplicaDied
from rlenv.core.errors import EngineError
from rlenv.core.types import Adapter, Generation, Sampling

MAX_HOMES = 100_000  # conversations whose replica is remembered


@dataclass(frozen=True)
class PoolStats:
    """What a pool has done since its start."""

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
        self._seats = [_Seat(Replica(config, index)) for index in range(config.replicas)]
        self._homes: OrderedDict[str, _Seat] = OrderedDict()
        self._counts = {"requests": 0, "prompt_tokens": 0, "cached_tokens": 0, "sampled_tokens": 0, "restarts": 0}
        self._in_flight = 0
        self._busy_s = 0.0
        self._busy_since = 0.0
        self._started = False

    # ------------------------------------------------------------------------------------------- life

    def start(self) -> EnginePool:
        """Starts all replicas at once and returns when they all serve requests.

        Raises:
            ConfigError: the cluster lacks the CPUs or GPUs asked for, or an engine refuses its settings.
            EngineError: a replica failed or was not ready in time.
        """
        check_capacity(self.config)
        deadline = time.monotonic() + self.config.startup_timeout_s
        try:
            launched = [(seat.replica, seat.replica.launch()) for seat in self._seats]
            for replica, started in launched:
                replica.wait(started, max(0.0, deadline - time.monotonic()))
        except BaseException:
            self.close()
            raise
        self._started = True
        return self

    def close(self) -> None:
        """Ends all replicas and frees what they held; safe to call twice."""
        self._started = False
        for seat in self._seats:
            seat.replica.close()

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
        """Returns one sampled continuation of ``token_ids``; see ``rlenv.core.protocols.Engine``.

        A request whose replica dies is asked again once the replica is back: with a seed, it gives the same tokens.
        """
        check_prompt(token_ids, sampling, self.config.max_model_len)
        if not self._started:
            raise EngineError(f"the pool {self.config.name!r} is not running; call start() first")
        self._enter()
        try:
            reply = await self._generate(token_ids, sampling, adapter, conversation)
        finally:
            self._leave()
        for name, more in (
            ("requests", 1),
            ("prompt_tokens", len(token_ids)),
            ("cached_tokens", reply.cached_tokens),
            ("sampled_tokens", len(reply.token_ids)),
        ):
            self._counts[name] += more
        return reply

    async def _generate(
        self, token_ids: Sequence[int], sampling: Sampling, adapter: Adapter | None, conversation: str | None
    ) -> Generation:
        while True:
            seat = self._route(conversation)
            async with seat.place(self.config.max_num_seqs):
                generation = seat.replica.generation
                try:
                    return await seat.replica.generate(token_ids, sampling, adapter, conversation)
                except ReplicaDied as death:
                    await self._mend(seat, generation, str(death))

    def _route(self, conversation: str | None) -> _Seat:
        idlest = min(self._seats, key=lambda seat: seat.load)
        if conversation is None:
            return idlest
        home = self._homes.pop(conversation, idlest)
        if home.load - idlest.load > max(2, self.config.max_num_seqs // 4):
            home = idlest
        self._homes[conversation] = home
        if len(self._homes) > MAX_HOMES:
            self._homes.popitem(last=False)
        return home

    async def _mend(self, seat: _Seat, generation: int, reason: str) -> None:
        """Revives the seat's replica once per death, whoever of its requests comes first; all of them wait."""
        if seat.mending is None and seat.replica.generation == generation:
            if self._counts["restarts"] >= self.config.max_restarts:
                raise seat.replica.given_up(reason)
            self._counts["restarts"] += 1
            seat.mending = asyncio.ensure_future(asyncio.to_thread(seat.replica.revive, reason))
            seat.mending.add_done_callback(lambda _task: setattr(seat, "mending", None))
        if seat.mending is not None:
            await asyncio.shield(seat.mending)

    # ------------------------------------------------------------------------------------------ counts

    @property
    def pids(self) -> list[int]:
        """Process ids of the replicas' actors, each on its own node."""
        return [seat.replica.pid for seat in self._seats]

    def stats(self) -> PoolStats:
        """Returns what the pool has done so far."""
        now = time.monotonic() - self._busy_since if self._in_flight else 0.0
        return PoolStats(busy_s=self._busy_s + now, **self._counts)

    def _enter(self) -> None:
        if self._in_flight == 0:
            self._busy_since = time.monotonic()
        self._in_flight += 1

    def _leave(self) -> None:
        self._in_flight -= 1
        if self._in_flight == 0:
            self._busy_s += time.monotonic() - self._busy_since


class _Seat:
    """A replica with its queue: at most so many requests in flight, the others wait in order."""

    def __init__(self, replica: Replica) -> None:
        self.replica = replica
        self.mending: asyncio.Future[None] | None = None
        self._in_flight = 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def load(self) -> int:
        """Requests in flight and waiting."""
        return self._in_flight + len(self._waiting)

    def place(self, most: int) -> _Place:
        """Returns a context manager that holds one of ``most`` places."""
        return _Place(self, most)


class _Place:
    def __init__(self, seat: _Seat, most: int) -> None:
        self._seat = seat
        self._most = most

    async def __aenter__(self) -> None:
        seat = self._seat
        if seat._in_flight < self._most:
            seat._in_flight += 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        seat._waiting.append(turn)
        try:
            await turn  # whoever leaves hands over its place
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                await self.__aexit__()
            elif turn in seat._waiting:
                seat._waiting.remove(turn)
            raise

    async def __aexit__(self, *_: object) -> None:
        seat = self._seat
        while seat._waiting:
            turn = seat._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        seat._in_flight -= 1
