"""How many processes fit on the nodes of a cluster: arithmetic on the resources that Ray reports."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence


def fitting(nodes: Sequence[Mapping[str, float]], need: Mapping[str, float]) -> float:
    """Returns the number of processes that fit, each within one node.

    >>> fitting([{"CPU": 8, "GPU": 2}, {"CPU": 1}], {"CPU": 1, "GPU": 0.5})
    4
    """
    required = {name: amount for name, amount in need.items() if amount > 0}
    if not required:
        return math.inf
    return sum(min(int((node.get(name, 0) + 1e-6) / amount) for name, amount in required.items()) for node in nodes)


def listed(nodes: Sequence[Mapping[str, float]]) -> str:
    """Returns the nodes' CPUs and GPUs for people.

    >>> listed([{"CPU": 8, "GPU": 2}, {"CPU": 1}])
    '8 CPU and 2 GPU; 1 CPU and 0 GPU'
    """
    return "; ".join(f"{node.get('CPU', 0):g} CPU and {node.get('GPU', 0):g} GPU" for node in nodes) or "no node"


def asked(number: int, need: Mapping[str, float]) -> str:
    """Returns what processes ask for, for people.

    >>> asked(2, {"CPU": 1.0, "GPU": 0.5})
    'asks for 2 x (1 CPU and 0.5 GPU), each on one node'
    """
    return f"asks for {number} x ({need['CPU']:g} CPU and {need['GPU']:g} GPU), each on one node"
