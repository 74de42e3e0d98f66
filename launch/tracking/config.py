"""Settings of a run's tracking."""

from __future__ import annotations

from pydantic import NonNegativeInt

from rlenv.core.settings import Settings, settings


@settings
class TrackingConfig(Settings):
    """Where a run's metrics go besides ``metrics.jsonl``."""

    wandb: bool = False
    """Whether to send metrics to Weights & Biases. WANDB_MODE is obeyed; without it and without a key (WANDB_API_KEY,
    or one from ``wandb login``), offline files stay in the run directory."""
    project: str = "rlenv"
    """W&B project."""
    entity: str | None = None
    """W&B team or user; None is the owner of the key."""
    transcripts: NonNegativeInt = 0
    """Simulated conversations of each version, of evaluation users, whose text W&B gets as a table. 0: no text leaves
    the run directory."""
    tensorboard: bool = False
    """Whether to write the metrics for TensorBoard too, into ``tensorboard/`` of the run directory."""
