"""Starts and stops what holds CPUs and GPUs: Ray, the engine pools and the served discriminator.

Engines start when a phase first needs them. They are stopped before a training phase, unless the cluster has room for
both: Ray Train makes its own placement group and would wait for resources that an engine holds. Independent of the
phases.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import ray
from ray._private.services import canonicalize_bootstrap_address

from actors.pool import EnginePool
from actors.scoring import DiscriminatorPool
from launch.run.config.run import RayConfig, RunConfig, keeps_engines
from rlenv.core.errors import ConfigError, PhaseError
from rlenv.prompting.chat_format import ChatFormat, chat_format

log = logging.getLogger(__name__)
STARTS = 3
CONNECT_TIMEOUT_S = 5.0


def cluster_size() -> tuple[float, float]:
    """Returns the numbers of CPUs and GPUs of the cluster."""
    total = ray.cluster_resources()
    return total.get("CPU", 0), total.get("GPU", 0)


@contextmanager
def cluster(config: RayConfig) -> Iterator[None]:
    """Connects to the configured Ray cluster, or starts one that ends with the block.

    Raises:
        ConfigError: there is no cluster at the configured address.
        PhaseError: Ray did not start.
    """
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
    if config.address:
        where, address = f"ray.address={config.address}", config.address
    else:
        address = os.environ.get("RAY_ADDRESS", "").strip()
        where = f"RAY_ADDRESS={address}"
    if address and address != "local":
        connect(address, where)
    else:
        _start_ray(config)
    try:
        yield
    finally:
        ray.shutdown()


def connect(address: str, where: str) -> None:
    """Connects this process to a running Ray cluster. Ray itself waits for minutes where none answers.

    Args:
        address: ``host:port`` of its head, "auto" or ``ray://host:port``.
        where: the setting or variable with the address, for errors.

    Raises:
        ConfigError: no cluster answers there.
    """
    way_out = "unset it to start a cluster here, or give host:port of a running cluster's head, as host:6379"
    if address.startswith(("http://", "https://")):
        raise ConfigError(
            f"{where}: this is the address of a dashboard, to which jobs are submitted, and not of a cluster; {way_out}"
        )
    try:
        client = address.startswith("ray://")
        place = address.removeprefix("ray://") if client else canonicalize_bootstrap_address(address)
        host, _, port = str(place).rpartition(":")
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_TIMEOUT_S).close()
    except (ValueError, OSError, RuntimeError) as error:  # no address, or nobody there
        raise ConfigError(f"{where}: no Ray cluster answers there ({type(error).__name__}); {way_out}") from None
    try:
        _init_ray(address=address)
    except Exception as error:  # Ray raises many kinds
        ray.shutdown()
        lines = str(error).strip().splitlines()
        reason = lines[0] if lines else type(error).__name__
        raise ConfigError(f"{where}: what answers there is no Ray cluster to use ({reason}); {way_out}") from error


def _init_ray(**options: Any) -> None:
    """Starts Ray, or connects to it, and leaves SIGTERM to this process: Ray's own handler aborts it."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **options)
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


def _start_ray(config: RayConfig) -> None:
    """Starts Ray in this process; tries again where a busy machine misses Ray's own limit of 30 seconds."""
    for attempt in range(1, STARTS + 1):
        try:
            _init_ray(
                address="local",  # never join a cluster that another process left on this machine
                num_cpus=config.num_cpus,
                num_gpus=config.num_gpus,
                include_dashboard=False,
            )
            return
        except Exception as error:  # Ray raises Exception itself
            ray.shutdown()
            if "timed out" not in str(error) or attempt == STARTS:
                raise PhaseError(f"Ray did not start: {error}; run the same command again") from error
            log.warning("Ray did not start in time; trying again")


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
