"""The discriminator as Ray actors: log-odds of sessions and of their branches, batched across conversations.

Implements ``rlenv.core.protocols.Discriminator``. What is read and at which positions stands in ``rlenv``, where the
trainer reads it too.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayTaskError

from rlenv.core.errors import EngineError, RlenvError
from rlenv.core.types import Branch, Session, SessionScores
from rlenv.models.hardware import keep_freed_memory
from rlenv.prompting.context import ContextConfig
from rlenv.prompting.system_texts import discriminator_system_text, token_counter


@dataclass(frozen=True)
class ScoringConfig:
    """What serves the discriminator."""

    replicas: int = 1
    """Actors, each with a copy of the model."""
    num_cpus: float = 1
    """CPUs of each."""
    num_gpus: float = 0
    """GPUs of each."""
    threads: int = 2
    """Compute threads of each."""
    batch_tokens: int = 16384
    """Tokens of one forward pass, padding included."""
    startup_timeout_s: float = 300.0
    """After which actors that are not ready are an error."""
    dtype: str | None = None
    """To compute in; None is what it was trained in."""


class _ScoringActor:
    """One copy of the model; concurrent calls are gathered into batches."""

    def __init__(self, checkpoint: str, config: ScoringConfig, context: ContextConfig) -> None:
        import torch

        from rlenv.discriminator.local import LocalDiscriminator
        from rlenv.discriminator.model import LoadedDiscriminator

        torch.set_num_threads(config.threads)
        device = "cuda" if config.num_gpus and torch.cuda.is_available() else "cpu"
        if device == "cpu":
            keep_freed_memory()
        loaded = LoadedDiscriminator.load(
            checkpoint, device=device, dtype=config.dtype, batch_tokens=config.batch_tokens
        )
        text = discriminator_system_text(context, token_counter(loaded.chat))
        self._discriminator = LocalDiscriminator(loaded, lambda session: text(session.context))

    async def log_odds(self, session: Session, branches: Sequence[Branch]) -> SessionScores:
        return await self._discriminator.log_odds(session, branches)

    async def ready(self) -> bool:
        return True


class DiscriminatorPool:
    """Replicas of one trained discriminator; sessions go round them. Use it as a context manager."""

    def __init__(
        self,
        checkpoint: str | Path,
        config: ScoringConfig = ScoringConfig(),
        context: ContextConfig = ContextConfig(),
    ) -> None:
        self.checkpoint = str(checkpoint)
        self.config = config
        self.context = context
        self._actors: list[Any] = []
        self._next = itertools.count()

    def __enter__(self) -> DiscriminatorPool:
        threads = str(self.config.threads)
        actor = ray.remote(_ScoringActor).options(
            num_cpus=self.config.num_cpus,
            num_gpus=self.config.num_gpus,
            max_concurrency=512,
            runtime_env={"env_vars": {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}},
        )
        self._actors = [actor.remote(self.checkpoint, self.config, self.context) for _ in range(self.config.replicas)]
        try:
            ray.get([a.ready.remote() for a in self._actors], timeout=self.config.startup_timeout_s)
        except (RayActorError, GetTimeoutError) as error:
            self.close()
            config = self.config
            raise EngineError(
                f"the discriminator of {self.checkpoint} could not be served within {config.startup_timeout_s:.0f} s: "
                f"{type(error).__name__}. It asked for {config.replicas} x {config.num_cpus} CPUs and "
                f"{config.num_gpus} GPUs; free are {ray.available_resources().get('CPU', 0):.0f} CPUs and "
                f"{ray.available_resources().get('GPU', 0):.0f} GPUs"
            ) from None
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Ends the actors and frees what they held."""
        for actor in self._actors:
            ray.kill(actor)
        self._actors = []

    async def log_odds(self, session: Session, branches: Sequence[Branch] = ()) -> SessionScores:
        """Returns the log-odds of a session [T + 1] and of its branches, from one replica.

        Raises:
            OverlongError: the session does not fit the discriminator.
            EngineError: the replica died.
        """
        actor = self._actors[next(self._next) % len(self._actors)]
        try:
            return await actor.log_odds.remote(session, list(branches))
        except RayTaskError as error:
            if isinstance(error.cause, RlenvError):
                raise error.cause from None
            raise
        except RayActorError as error:
            raise EngineError(f"a discriminator actor died while scoring {session.session_id}: {error}") from None
