"""Rollout actors: ``rlenv.env.collect`` in several processes and on many nodes of a Ray cluster.

    with RolloutPool(make) as pool:
        async for result in pool.collect(episodes):
            ...

An episode is a function of its seed, so who holds it changes nothing. What an actor was holding when it died is begun
anew elsewhere. Knows nothing of engines: what the agent and the counterpart need, the factory makes in each actor.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncGenerator, Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from types import TracebackType
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from rlenv.core.aio import as_finished
from rlenv.core.errors import ConfigError, EngineError, RlenvError
from rlenv.core.protocols import Speaker
from rlenv.env.collect import Collected, Episode, hold
from rlenv.env.core import ConversationCore

logger = logging.getLogger(__name__)

Make = Callable[[], tuple[Speaker, ConversationCore]]
"""Picklable; returns who sits in the core's seat, and the core. Called once in each actor."""


@dataclass(frozen=True)
class RolloutConfig:
    """What holds the conversations."""

    actors: int = 2
    """Processes, spread over the nodes."""
    num_cpus: float = 1
    """CPUs of each."""
    threads: int = 1
    """Compute threads of each."""
    concurrency: int = 128
    """Conversations under way in each."""
    attempts: int = 2
    """Tries of an episode whose engine failed, and of one whose actor died."""
    max_restarts: int = 4
    """Deaths of actors, all together, after which the collection gives up."""
    startup_timeout_s: float = 300.0
    """After which actors that are not ready are an error."""

    def __post_init__(self) -> None:
        for name in ("actors", "threads", "concurrency", "attempts"):
            if getattr(self, name) < 1:
                raise ConfigError(f"rollouts.{name}: expected 1 or more, got {getattr(self, name)}")


class _RolloutActor:
    """One process; Ray calls ``hold`` many times at once."""

    def __init__(self, make: Make, attempts: int) -> None:
        self._make = make
        self._attempts = attempts

    @cached_property
    def _parts(self) -> tuple[Speaker, ConversationCore]:
        return self._make()

    async def start(self) -> int:
        """Makes agent and core; returns the process id."""
        _ = self._parts
        return os.getpid()

    async def hold(self, episode: Episode) -> Collected:
        """Returns what became of one episode."""
        agent, core = self._parts
        return await hold(agent, core.sibling, episode, self._attempts)


@dataclass
class _Place:
    """One actor and those that come after it."""

    actor: Any
    pid: int = 0
    deaths: int = 0
    under_way: int = 0


class RolloutPool:
    """Rollout actors behind one ``collect``. Use it as a context manager, or ``start`` and ``close``."""

    def __init__(self, make: Make, config: RolloutConfig = RolloutConfig()) -> None:
        self.make = make
        self.config = config
        self.restarts = 0
        """Actors that died and were replaced."""
        self._places: list[_Place] = []

    def start(self) -> RolloutPool:
        """Starts all actors and returns when they are ready.

        Raises:
            RlenvError: what the factory raised of it.
            EngineError: the actors were not ready in time.
        """
        config = self.config
        self._places = [_Place(self._launch()) for _ in range(config.actors)]
        try:
            pids = ray.get([p.actor.start.remote() for p in self._places], timeout=config.startup_timeout_s)
        except RayTaskError as error:
            self.close()
            if isinstance(error.cause, RlenvError):
                raise error.cause from None
            raise
        except (RayActorError, GetTimeoutError) as error:
            self.close()
            raise EngineError(
                f"{config.actors} rollout actors of {config.num_cpus} CPUs were not ready within "
                f"{config.startup_timeout_s:.0f} s ({type(error).__name__}); the cluster has "
                f"{ray.cluster_resources().get('CPU', 0):.0f} CPUs, of which "
                f"{ray.available_resources().get('CPU', 0):.0f} are free"
            ) from None
        for place, pid in zip(self._places, pids, strict=True):
            place.pid = pid
        return self

    def close(self) -> None:
        """Ends the actors; safe to call twice."""
        for place in self._places:
            ray.kill(place.actor)
        self._places = []

    def __enter__(self) -> RolloutPool:
        return self.start()

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def pids(self) -> list[int]:
        """Process ids of the actors that ``start`` started, each on its own node."""
        return [place.pid for place in self._places]

    def collect(self, episodes: Iterable[Episode]) -> AsyncGenerator[Collected, None]:
        """Yields every episode's result as it comes; see ``rlenv.env.collect.collect``.

        At most ``actors * concurrency`` episodes are in memory, finished ones that were not taken yet among them.

        Raises:
            EngineError: the pool is not running, or more actors died than ``max_restarts``.
        """
        return as_finished(self._hold, episodes, self.config.actors * self.config.concurrency)

    async def _hold(self, episode: Episode) -> Collected:
        if not self._places:
            raise EngineError("the rollout actors are not running; call start() first")
        for attempt in range(self.config.attempts):
            place = min(self._places, key=lambda p: p.under_way)
            deaths = place.deaths
            place.under_way += 1
            reference = place.actor.hold.remote(episode)
            try:
                result: Collected = await reference
                return result.model_copy(update={"attempts": result.attempts + attempt})
            except RayActorError:
                self._mend(place, deaths)
            except asyncio.CancelledError:
                ray.cancel(reference)
                raise
            finally:
                place.under_way -= 1
        reason = f"the rollout actor that held it died, {self.config.attempts} times"
        return Collected(episode=episode, failure="engine", reason=reason, attempts=self.config.attempts)

    def _mend(self, place: _Place, deaths: int) -> None:
        """Replaces a dead actor once per death, whoever of those it held comes first."""
        if place.deaths != deaths:
            return
        if self.restarts >= self.config.max_restarts:
            spent = f"max_restarts = {self.config.max_restarts} is used up"
            raise EngineError(f"a rollout actor died and {spent}; resume the run to try again")
        place.deaths += 1
        self.restarts += 1
        logger.warning("a rollout actor died; starting another in its place")
        place.actor = self._launch()

    def _launch(self) -> Any:
        threads = str(self.config.threads)
        options = {
            "num_cpus": self.config.num_cpus,
            "max_concurrency": self.config.actors * self.config.concurrency + 1,
            "max_restarts": 0,
            "scheduling_strategy": "SPREAD",
            "runtime_env": {"env_vars": {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}},
        }
        return ray.remote(_RolloutActor).options(**options).remote(self.make, self.config.attempts)
