"""Settings shared by the training loops: optimizer, schedule and workers (Table 6)."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from rlenv.core.settings import Settings, settings
from rlenv.models.hardware import Precision

AdapterSchedule = Literal["constant", "constant_with_warmup", "cosine", "linear"]
Schedule = Literal["constant", "linear", "cosine", "wsd"]
"""Schedules of our own loops; see ``trainers.backend.optimization``."""


@settings
class AdapterTraining(Settings):
    """The settings that SFT, DPO and RL share; each subclass overrides the defaults that differ (Table 6)."""

    epochs: PositiveFloat = 1.0
    batch_size: PositiveInt = 1
    """Sessions or pairs per step and worker."""
    gradient_accumulation: PositiveInt = 1
    learning_rate: PositiveFloat = 5e-5
    schedule: AdapterSchedule = "constant"
    warmup: NonNegativeFloat = 0.0
    """Warm-up: a share of the steps if below 1, otherwise a number of steps."""
    max_grad_norm: PositiveFloat = 1.0
    weight_decay: NonNegativeFloat = 0.0
    dtype: Precision = "auto"
    """Precision of the frozen backbone and of the computation; the adapter's weights are always float32. "auto" is
    bfloat16 where the hardware supports it."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: slower, less memory."""
    offload_activations: bool = False
    """Keep activations in the host's memory between the forward and the backward pass, pinned. With
    ``gradient_checkpointing`` these are the inputs of the layers: what long rows of a large model fill a GPU with."""
    shard: bool = False
    """Shard the model over the workers (FSDP2); for models that do not fit one GPU."""
    save_every: NonNegativeInt = 200
    """Steps between checkpoints to resume from; 0 saves none."""
    seed: int = 0


@settings
class TrainResources(Settings):
    """The workers of one Ray Train run. Ray Train reserves them itself, so engines must release their GPUs first."""

    num_workers: PositiveInt = 1
    """Data-parallel workers; each sees its share of every epoch."""
    num_cpus: NonNegativeFloat = 1.0
    """CPUs reserved per worker."""
    num_gpus: NonNegativeFloat = 0.0
    """GPUs reserved per worker; 0 trains on the CPU (gloo)."""
    threads: PositiveInt | None = None
    """torch threads per worker; None uses ``num_cpus``."""
    max_failures: int = Field(default=2, ge=-1)
    """How often a lost worker is replaced and the run resumed from its last checkpoint; -1 is without limit. Ray
    Train's own default is 0."""
    answer_timeout_s: PositiveFloat = 3600.0
    """Seconds without any progress (a step, a checkpoint, a conversation) after which a worker that is alive counts as
    hung: it is killed and replaced, which counts as a failure. Reading a large model from a slow disk must fit in."""
    startup_timeout_s: PositiveFloat = 600.0
    """Seconds that the workers may wait for room in the cluster, and take to start. It is tried ``max_failures`` more
    times, since a node may join, and then the training fails."""
    keep_workers: bool = False
    """Keep the workers and their CPUs between the trainings of a run, which then do not wait for processes and imports,
    if the cluster has room for them beside the engines and the served discriminator. With GPUs, workers must share one
    with these (``num_gpus`` below 1): between trainings they keep what CUDA needs, and no weights."""

    def problems(self) -> list[str]:
        """Returns the violated rules across fields, one line each."""
        if self.keep_workers and self.num_gpus >= 1:
            return [
                "keep_workers: workers with whole GPUs cannot be kept, engines need the GPUs; set train.keep_workers "
                "to false, or train.num_gpus below 1"
            ]
        return []

    def num_threads(self) -> int:
        """Returns the torch threads of one worker, at least 1."""
        return self.threads or max(1, int(self.num_cpus))
