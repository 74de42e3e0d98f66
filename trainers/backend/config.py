"""What every adapter's training shares: LoRA, optimizer and schedule settings (Table 6)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from rlenv.core.settings import Settings, settings
from rlenv.models.hardware import Precision

AdapterSchedule = Literal["constant", "constant_with_warmup", "cosine", "linear"]
Schedule = Literal["constant", "linear", "cosine", "wsd"]
"""Of our own loops; see ``backend.optimization``."""


@settings
class AdapterTraining(Settings):
    """The settings that SFT and DPO share; where Table 6 gives each its own, the subclass does."""

    epochs: PositiveFloat = 1.0
    batch_size: PositiveInt = 1
    """Sessions or pairs a step and worker."""
    gradient_accumulation: PositiveInt = 1
    learning_rate: PositiveFloat = 5e-5
    schedule: AdapterSchedule = "constant"
    warmup: NonNegativeFloat = 0.0
    """Below 1 a share of the steps, else a number of them."""
    max_grad_norm: PositiveFloat = 1.0
    weight_decay: NonNegativeFloat = 0.0
    dtype: Precision = "auto"
    """Of the frozen backbone and the computation; the adapter's weights are float32 always. "auto": bfloat16 where the
    hardware has it."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: slower, less memory."""
    shard: bool = False
    """Shard the model over the workers (FSDP2); for models that do not fit one GPU."""
    save_every: NonNegativeInt = 200
    """Steps between checkpoints to resume from; 0 is never."""
    seed: int = 0


@settings
class TrainResources(Settings):
    """The workers of one Ray Train run. Ray Train reserves them itself, so engines must let go of theirs before."""

    num_workers: PositiveInt = 1
    """Data-parallel workers; each sees its share of every epoch."""
    num_cpus: NonNegativeFloat = 1.0
    """CPUs a worker reserves."""
    num_gpus: NonNegativeFloat = 0.0
    """GPUs a worker reserves; 0 trains on the CPU (gloo)."""
    threads: PositiveInt | None = None
    """torch threads a worker; None is ``num_cpus``."""
    max_failures: int = Field(default=2, ge=-1)
    """How often a lost worker is replaced, the run going on from its last checkpoint; Ray Train's default is 0."""

    def num_threads(self) -> int:
        """Returns the torch threads of one worker, at least 1."""
        return self.threads or max(1, int(self.num_cpus))
