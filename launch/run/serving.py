"""Starts and stops what holds CPUs and GPUs: the engine pools and the served discriminator.

Engines start when a phase first needs them. They are stopped before a training phase, unless the cluster has room for
both: Ray Train makes its own placement group and would wait for resources that an engine holds. Independent of the
phases.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path

from actors.pool import EnginePool
from actors.scoring import DiscriminatorPool
from launch.run.cluster.connection import cluster_size
from launch.run.config.run import RunConfig, keeps_engines
from rlenv.prompting.chat_format import ChatFormat, chat_format


class Serving:
    """The run's engines by name, each started at its first use.

    Args:
        config: the run's configuration.
        simulator_model: folder of the simulator's base model, which engines with model "auto" serve.
        log_dir: the folder of the engines' logs.
    """

    def __init__(self, config: RunConfig, simulator_model: str, log_dir: Path) -> None:
        self.config = config
        self.simulator_model = simulator_model
        self.log_dir = log_dir
        self.engine_configs = {
            name: replace(
                engine,
                model=simulator_model if engine.model == "auto" else engine.model,
                name=name,
                log_dir=str(log_dir),
            )
            for name, engine in config.engines.items()
        }
        self._pools: dict[str, EnginePool] = {}

    @cached_property
    def formats(self) -> dict[str, ChatFormat]:
        """The chat format of each engine, by name."""
        from transformers import AutoTokenizer

        return {
            name: chat_format(AutoTokenizer.from_pretrained(engine.model))
            for name, engine in self.engine_configs.items()
        }

    @property
    def keeps_engines(self) -> bool:
        """Whether engines stay up during training and scoring: as configured, or where there is room for both."""
        return keeps_engines(self.config, *cluster_size())

    @contextmanager
    def engines(self, *names: str) -> Iterator[dict[str, EnginePool]]:
        """Yields the running pools of these names; afterwards they stop unless ``keeps_engines``."""
        for name in names:
            if name not in self._pools:
                self._pools[name] = EnginePool(self.engine_configs[name]).start()
        try:
            yield {name: self._pools[name] for name in names}
        finally:
            self.make_room()

    @contextmanager
    def discriminator(self, checkpoint: Path) -> Iterator[DiscriminatorPool]:
        """Yields the served discriminator of a checkpoint."""
        with DiscriminatorPool(checkpoint, self.config.scoring, self.config.context, self.log_dir) as pool:
            yield pool

    def make_room(self) -> None:
        """Stops the engines unless ``keeps_engines``, so that training or scoring gets their resources."""
        if not self.keeps_engines:
            self.close()

    def close(self) -> None:
        """Stops every engine."""
        for pool in self._pools.values():
            pool.close()
        self._pools = {}
