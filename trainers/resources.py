"""What a training run asks of the cluster. Knows nothing of Ray."""

from __future__ import annotations

from dataclasses import dataclass

from rlenv.errors import ConfigError


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
