"""Serves the discriminator in Ray actors: log-odds of sessions and their branches, batched across conversations.

Implements ``rlenv.core.protocols.Discriminator``. The token layout is that of ``rlenv.discriminator.rows``, as in
training.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from actors.process import thread_environment
from actors.supervision import Supervised, start_all
from rlenv.core.settings import Settings, settings
from rlenv.core.types import Branch, Session, SessionScores
from rlenv.discriminator.local import LocalDiscriminator
from rlenv.models.hardware import keep_freed_memory
from rlenv.prompting.context import ContextConfig
from rlenv.prompting.system_texts import discriminator_system_text, simulator_system_text, token_counter


@settings
class ScoringConfig(Settings):
    """The actors that serve the discriminator."""

    replicas: PositiveInt = 1
    """Number of actors, each with a copy of the model."""
    num_cpus: NonNegativeFloat = 1
    """CPUs per actor."""
    num_gpus: NonNegativeFloat = 0
    """GPUs per actor."""
    threads: PositiveInt = 2
    """Compute threads per actor."""
    batch_tokens: PositiveInt = 16384
    """Tokens in one forward pass, including padding."""
    startup_timeout_s: PositiveFloat = 300.0
    """Seconds after which an actor that is not ready is an error."""
    answer_timeout_s: PositiveFloat = 1800.0
    """Seconds without an answer to any session, though there are some, after which an actor that is alive counts as
    hung and is restarted."""
    max_restarts: NonNegativeInt = 3
    """Restarts of one actor before its death is an error."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Dtype of the computation; None is that of training."""


def load_discriminator(checkpoint: str, config: ScoringConfig, context: ContextConfig) -> LocalDiscriminator:
    """Returns one copy of the model, which scores concurrent calls in batches."""
    import torch

    from rlenv.discriminator.likelihood import CARD, LikelihoodDiscriminator
    from rlenv.discriminator.model import LoadedDiscriminator

    torch.set_num_threads(config.threads)
    device = "cuda" if config.num_gpus and torch.cuda.is_available() else "cpu"
    if device == "cpu":
        keep_freed_memory()
    if (Path(checkpoint) / CARD).is_file():
        reading = LikelihoodDiscriminator.load(checkpoint, device=device, batch_tokens=config.batch_tokens)
        simulator_text = simulator_system_text(context, token_counter(reading.chat))
        return LocalDiscriminator(reading, lambda session: simulator_text(session.context))
    loaded = LoadedDiscriminator.load(checkpoint, device=device, dtype=config.dtype, batch_tokens=config.batch_tokens)
    text = discriminator_system_text(context, token_counter(loaded.chat))
    return LocalDiscriminator(loaded, lambda session: text(session.context))


class DiscriminatorPool:
    """Replicas of one trained discriminator; a session goes to the least busy one. Use it as a context manager."""

    def __init__(
        self,
        checkpoint: str | Path,
        config: ScoringConfig = ScoringConfig(),
        context: ContextConfig = ContextConfig(),
        log_dir: str | Path = "outputs/logs",
    ) -> None:
        self._replicas = [
            Supervised(
                f"discriminator-{index} of {checkpoint}",
                partial(load_discriminator, str(checkpoint), config, context),
                log=f"{log_dir}/discriminator-{index}.log",
                max_restarts=config.max_restarts,
                startup_timeout_s=config.startup_timeout_s,
                answer_timeout_s=config.answer_timeout_s,
                num_cpus=config.num_cpus,
                num_gpus=config.num_gpus,
                runtime_env={"env_vars": thread_environment(config.threads)},
            )
            for index in range(config.replicas)
        ]

    def __enter__(self) -> DiscriminatorPool:
        """Starts all replicas.

        Raises:
            ConfigError: the cluster lacks the resources.
            EngineError: the checkpoint cannot be loaded, with the reason, or the replicas were not ready in time.
        """
        start_all(self._replicas)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Ends the replicas and frees their resources; safe to call twice."""
        for replica in self._replicas:
            replica.close()

    @property
    def pids(self) -> list[int]:
        """Process ids of the replicas, each on its own node."""
        return [replica.pid for replica in self._replicas]

    @property
    def restarts(self) -> int:
        """Number of replica deaths."""
        return sum(replica.restarts for replica in self._replicas)

    async def log_odds(self, session: Session, branches: Sequence[Branch] = ()) -> SessionScores:
        """Returns the log-odds of a session [T + 1] and of its branches; repeated if the replica dies meanwhile.

        Raises:
            OverlongError: the session does not fit the discriminator.
            EngineError: the replica died more often than ``max_restarts``.
        """
        replica = min(self._replicas, key=lambda each: each.in_flight)
        scores: SessionScores = await replica.call("log_odds", session, tuple(branches))
        return scores
