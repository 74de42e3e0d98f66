"""Says before anything is started whether a Ray cluster can hold a pool, and names what is short.

Ray itself waits forever for resources that will never come. Knows nothing of engines but their sizes.
"""

from __future__ import annotations

import time
from typing import Any

import ray

from actors.engines.config import EngineConfig
from rlenv.core.errors import ConfigError

RELEASE_TIMEOUT_S = 20.0  # what killed actors held comes back within a few seconds


def check_capacity(config: EngineConfig, release_timeout_s: float = RELEASE_TIMEOUT_S) -> None:
    """Returns when the cluster has room for the pool.

    Raises:
        ConfigError: Ray is not running, no node can hold one replica, the nodes together cannot hold all, or others
            hold what is needed and do not free it within ``release_timeout_s``.
    """
    if not ray.is_initialized():
        raise ConfigError(f"engine {config.name!r}: Ray is not running; call ray.init() first")
    totals = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    need = {"CPU": config.num_cpus, "GPU": config.num_gpus}
    if _fitting(totals, need) < config.replicas:
        raise ConfigError(_short(config, totals, "the cluster has"))
    deadline = time.monotonic() + release_timeout_s
    while _fitting(free := _available(), need) < config.replicas:
        if time.monotonic() > deadline:
            raise ConfigError(_short(config, free, "others hold the rest: free is only"))
        time.sleep(0.2)


def _available() -> list[dict[str, float]]:
    from ray._private.state import available_resources_per_node

    return list(available_resources_per_node().values())


def _fitting(nodes: list[dict[str, Any]], need: dict[str, float]) -> int:
    """Returns how many replicas fit, each within one node."""
    wanted = {name: amount for name, amount in need.items() if amount > 0}
    if not wanted:
        return 1_000_000
    return sum(min(int((node.get(name, 0) + 1e-6) / amount) for name, amount in wanted.items()) for node in nodes)


def _short(config: EngineConfig, nodes: list[dict[str, Any]], what: str) -> str:
    have = "; ".join(f"{node.get('CPU', 0):g} CPU and {node.get('GPU', 0):g} GPU" for node in nodes) or "no node"
    return (
        f"engine {config.name!r} asks for {config.replicas} x ({config.num_cpus:g} CPU and {config.num_gpus:g} GPU), "
        f"each on one node, but {what} {have} (per node); lower replicas, num_cpus or num_gpus, or add nodes"
    )
