"""One replica of a pool as a Ray actor: started, waited for, found dead, and started again.

Knows Ray and the engine's log; nothing of routing. A request is stateless and seeded, so whoever was in flight when a
replica died simply asks again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from actors.engines.actor import EngineActor, actor_environment
from actors.engines.config import EngineConfig
from actors.logs import tail
from rlenv.core.errors import ConfigError, EngineError, RlenvError
from rlenv.core.types import Adapter, Generation, Sampling

logger = logging.getLogger(__name__)

CLOSE_TIMEOUT_S = 15
SPARE_CALLS = 8  # calls beside the requests in flight that an actor answers at once


class ReplicaDied(Exception):
    """The actor, its engine core or its node is gone; asking again after ``Replica.revive`` may work."""


class Replica:
    """One engine actor and its life.

    Args:
        config: of the pool.
        index: which replica this is.
    """

    def __init__(self, config: EngineConfig, index: int) -> None:
        self.config = config
        self.index = index
        self.generation = 0
        """Counts the actors that this replica has had; tells one death from the next."""
        self.pid = 0
        self._actor: Any = None

    def launch(self) -> Any:
        """Creates the actor and returns the reference that is ready when the model is loaded."""
        config = self.config
        self.generation += 1
        self._actor = (
            ray.remote(EngineActor)
            .options(
                num_cpus=config.num_cpus,
                num_gpus=config.num_gpus,
                max_concurrency=config.max_num_seqs + SPARE_CALLS,
                max_restarts=0,
                runtime_env={"env_vars": actor_environment(config)},
            )
            .remote(config, self.index)
        )
        return self._actor.start.remote()

    def wait(self, started: Any, timeout_s: float) -> None:
        """Returns when the replica serves requests.

        Raises:
            ConfigError: the engine refuses its settings.
            EngineError: it died or was not ready in time; holds the log's last lines.
        """
        try:
            self.pid = ray.get(started, timeout=timeout_s)
        except GetTimeoutError:
            self.kill()
            raise EngineError(self._report(f"was not ready after {self.config.startup_timeout_s:.0f} s")) from None
        except (RayActorError, RayTaskError) as error:
            self.kill()
            cause = getattr(error, "cause", None)
            if isinstance(cause, ConfigError):
                raise ConfigError(f"engine {self.config.name!r}: {cause}") from None
            raise EngineError(self._report(f"failed to start ({_reason(error)})")) from None

    async def generate(
        self, token_ids: Sequence[int], sampling: Sampling, adapter: Adapter | None, conversation: str | None
    ) -> Generation:
        """Returns the actor's reply; raises ``ReplicaDied`` where the replica can give none any more."""
        if self._actor is None:
            raise ReplicaDied("it was not running")
        reference = None
        try:
            reference = self._actor.generate.remote(tuple(token_ids), sampling, adapter, conversation)
            return await reference
        except RayActorError as error:
            raise ReplicaDied(_reason(error)) from None
        except RayTaskError as error:
            if isinstance(error.cause, EngineError):
                raise ReplicaDied(str(error.cause)) from None
            if isinstance(error.cause, RlenvError):
                raise error.cause from None
            raise
        except asyncio.CancelledError:
            if reference is not None:
                ray.cancel(reference)
            raise

    def revive(self, reason: str) -> None:
        """Ends what is left of the actor and starts another in its place; blocks until it serves requests."""
        logger.warning("%s died (%s); starting it again", self, reason)
        self.kill()
        self.wait(self.launch(), self.config.startup_timeout_s)

    def close(self) -> None:
        """Ends the actor: in order where it answers, by force where it does not."""
        if self._actor is not None:
            with contextlib.suppress(RayActorError, RayTaskError, GetTimeoutError):
                ray.get(self._actor.close.remote(), timeout=CLOSE_TIMEOUT_S)
            self.kill()

    def kill(self) -> None:
        """Ends the actor by force; its engine core dies with it."""
        if self._actor is not None:
            ray.kill(self._actor, no_restart=True)
            self._actor = None

    def given_up(self, reason: str) -> EngineError:
        """Returns the error that says why this replica is not started again."""
        spent = f"max_restarts = {self.config.max_restarts} is used up; resume the run to try again"
        return EngineError(self._report(f"died ({reason}) and {spent}"))

    def __str__(self) -> str:
        return f"{self.config.name}-{self.index}"

    def _report(self, what: str) -> str:
        path = self.config.log_path(self.index)
        return f"engine {self} {what}. The last lines of {path}:\n{tail(path)}"


def _reason(error: Exception) -> str:
    cause = getattr(error, "cause", None) or error
    lines = [line for line in str(cause).splitlines() if line.strip()]
    return f"{type(cause).__name__}: {lines[0] if lines else ''}"[:300]
