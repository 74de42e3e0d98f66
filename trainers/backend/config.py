"""What every adapter's training shares: LoRA, optimizer and schedule settings (Table 6)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from rlenv.core.errors import ConfigError
from rlenv.models.hardware import PRECISIONS, Precision


@dataclass(frozen=True)
class AdapterTraining:
    """The settings that SFT and DPO share; where Table 6 gives each its own, the subclass does."""

    section: ClassVar[str]
    """Where the settings stand in a run's configuration; errors name it."""

    epochs: float = 1.0
    batch_size: int = 1
    """Sessions or pairs a step and worker."""
    gradient_accumulation: int = 1
    learning_rate: float = 5e-5
    schedule: Literal["constant", "constant_with_warmup", "cosine", "linear"] = "constant"
    warmup: float = 0.0
    """Below 1 a share of the steps, else a number of them."""
    max_grad_norm: float = 1.0
    weight_decay: float = 0.0
    dtype: Precision = "auto"
    """Of the frozen backbone and the computation; the adapter's weights are float32 always. "auto": bfloat16 where the
    hardware has it."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: slower, less memory."""
    shard: bool = False
    """Shard the model over the workers (FSDP2); for models that do not fit one GPU."""
    save_every: int = 200
    """Steps between checkpoints to resume from; 0 is never."""
    seed: int = 0

    def __post_init__(self) -> None:
        if problems := self.problems():
            raise ConfigError("\n".join(f"{self.section}.{problem}" for problem in problems))

    def problems(self) -> list[str]:
        """Returns what is wrong with the settings."""
        problems = [
            f"{field}: expected above 0, got {getattr(self, field)}"
            for field in ("learning_rate", "max_grad_norm", "epochs")
            if getattr(self, field) <= 0
        ]
        problems += [
            f"{field}: expected 1 or more, got {getattr(self, field)}"
            for field in ("batch_size", "gradient_accumulation")
            if getattr(self, field) < 1
        ]
        if self.dtype not in PRECISIONS:
            problems.append(f"dtype: expected one of {', '.join(PRECISIONS)}, got {self.dtype!r}")
        if self.save_every < 0:
            problems.append(f"save_every: expected 0 (never) or more, got {self.save_every}")
        return problems


@dataclass(frozen=True)
class TrainResources:
    """The workers of one Ray Train run. Ray Train reserves them itself, so engines must let go of theirs before."""

    num_workers: int = 1
    """Data-parallel workers; each sees its share of every epoch."""
    num_cpus: float = 1.0
    """CPUs a worker reserves."""
    num_gpus: float = 0.0
    """GPUs a worker reserves; 0 trains on the CPU (gloo)."""
    threads: int | None = None
    """torch threads a worker; None is ``num_cpus``."""
    max_failures: int = 2
    """How often a lost worker is replaced, the run going on from its last checkpoint; Ray Train's default is 0."""

    def __post_init__(self) -> None:
        if self.num_workers < 1 or self.num_cpus < 0 or self.num_gpus < 0:
            raise ConfigError(
                f"train resources: expected num_workers >= 1 and num_cpus, num_gpus >= 0, got {self.num_workers}, "
                f"{self.num_cpus}, {self.num_gpus}"
            )
        if self.threads is not None and self.threads < 1:
            raise ConfigError(f"train resources: threads: expected 1 or more, got {self.threads}")

    def num_threads(self) -> int:
        """Returns the torch threads of one worker, at least 1."""
        return self.threads or max(1, int(self.num_cpus))
