"""Rollout actors: ``rlenv.env.collect`` in several processes and on many nodes of a Ray cluster.

    with RolloutPool(make) as pool:
        async for result in pool.collect(episodes):
            ...

An episode is a function of its seed, so it does not matter which actor runs it. Episodes of an actor that dies are run
again. Independent of engines: the factory creates in each actor what the agent and the counterpart need.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterable
from functools import partial
from pathlib import Path
from types import TracebackType

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from actors.process import thread_environment
from actors.supervision import ActorDied, Supervised, start_all
from rlenv.core.aio import as_finished
from rlenv.core.protocols import Speaker
from rlenv.core.settings import Settings, settings
from rlenv.env.collect import Collected, Episode, collect_one
from rlenv.env.core import ConversationCore

Make = Callable[[], tuple[Speaker, ConversationCore]]
"""A picklable factory of (agent in the core's seat, core). Called once in each actor."""


@settings
class RolloutConfig(Settings):
    """The actors that run the episodes."""

    actors: PositiveInt = 2
    """Number of processes, spread over the nodes."""
    num_cpus: NonNegativeFloat = 1
    """CPUs per actor."""
    threads: PositiveInt = 1
    """Compute threads per actor."""
    concurrency: PositiveInt = 128
    """Concurrent conversations per actor."""
    attempts: PositiveInt = 2
    """Attempts of an episode whose engine failed or whose actor died."""
    max_restarts: NonNegativeInt = 4
    """Restarts of one actor before its death is an error."""
    startup_timeout_s: PositiveFloat = 300.0
    """Seconds after which an actor that is not ready is an error."""
    answer_timeout_s: PositiveFloat = 1800.0
    """Seconds without a message in any conversation, though there are some, after which an actor that is alive counts
    as hung and is restarted."""


class RolloutActor:
    """The agent and core of one process; runs many episodes concurrently."""

    def __init__(self, make: Make, attempts: int) -> None:
        self._agent, self._core = make()
        self._attempts = attempts

    async def run(self, episode: Episode) -> Collected:
        """Returns the result of one episode."""
        return await collect_one(self._agent, self._core.sibling, episode, self._attempts)


class RolloutPool:
    """Rollout actors behind one ``collect``. Use it as a context manager, or ``start`` and ``close``."""

    def __init__(
        self, make: Make, config: RolloutConfig = RolloutConfig(), log_dir: str | Path = "outputs/logs"
    ) -> None:
        self.config = config
        self._actors = [
            Supervised(
                f"rollouts-{index}",
                partial(RolloutActor, make, config.attempts),
                log=f"{log_dir}/rollouts-{index}.log",
                max_restarts=config.max_restarts,
                startup_timeout_s=config.startup_timeout_s,
                answer_timeout_s=config.answer_timeout_s,
                num_cpus=config.num_cpus,
                max_concurrency=config.actors * config.concurrency + 2,
                scheduling_strategy="SPREAD",
                runtime_env={"env_vars": thread_environment(config.threads)},
            )
            for index in range(config.actors)
        ]

    def start(self) -> RolloutPool:
        """Starts all actors and returns when they are ready.

        Raises:
            ConfigError: the cluster lacks the resources.
            RlenvError: as raised by the factory.
            EngineError: the factory raised another error, or the actors were not ready in time.
        """
        start_all(self._actors)
        return self

    def close(self) -> None:
        """Ends the actors; safe to call twice."""
        for actor in self._actors:
            actor.close()

    def __enter__(self) -> RolloutPool:
        return self.start()

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def pids(self) -> list[int]:
        """Process ids of the actors, each on its own node."""
        return [actor.pid for actor in self._actors]

    @property
    def restarts(self) -> int:
        """Number of actor deaths."""
        return sum(actor.restarts for actor in self._actors)

    def collect(self, episodes: Iterable[Episode]) -> AsyncGenerator[Collected, None]:
        """Yields the episodes' results as they finish; see ``rlenv.env.collect.collect``.

        At most ``actors * concurrency`` episodes are in memory, including finished ones that were not consumed yet.

        Raises:
            EngineError: the pool is not running, or an actor died more often than ``max_restarts``.
        """
        return as_finished(self._run, episodes, self.config.actors * self.config.concurrency)

    async def _run(self, episode: Episode) -> Collected:
        for attempt in range(self.config.attempts):
            actor = min(self._actors, key=lambda each: each.in_flight)
            try:
                result: Collected = await actor.once("run", episode)
                return result.model_copy(update={"attempts": result.attempts + attempt})
            except ActorDied:
                await actor.revived()
        reason = f"the rollout actor that ran it died, {self.config.attempts} times"
        return Collected(episode=episode, failure="engine", reason=reason, attempts=self.config.attempts)
