"""Whether a cluster has room for a run's engines beside its training: the one rule, for runs and for plans."""

from __future__ import annotations

from collections.abc import Callable

from launch.run.config import RunConfig

Beside = Callable[[float, float], float]
"""Of the resources that training and scoring need: ``max`` where they take turns, else ``operator.add``."""


def keeps_engines(config: RunConfig, cpus: float, gpus: float) -> bool:
    """Returns whether engines stay up during training and scoring: as configured, or where there is room for both.

    Args:
        config: the run's configuration.
        cpus: CPUs of the cluster.
        gpus: GPUs of the cluster.
    """
    return has_room(config, cpus, gpus, max) if config.keep_engines is None else config.keep_engines


def has_room(config: RunConfig, cpus: float, gpus: float, beside: Beside) -> bool:
    """Returns whether there is room for all engines and, beside them, for training and scoring."""
    train, scoring, engines = config.train, config.scoring, config.engines.values()
    cpus_needed = sum(e.replicas * e.num_cpus for e in engines)
    gpus_needed = sum(e.replicas * e.num_gpus for e in engines)
    cpus_needed += beside(train.num_workers * train.num_cpus, scoring.replicas * scoring.num_cpus)
    gpus_needed += beside(train.num_workers * train.num_gpus, scoring.replicas * scoring.num_gpus)
    return cpus_needed <= cpus and gpus_needed <= gpus
