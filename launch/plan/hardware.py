"""The GPUs that a plan is for, as in ``8x80``: their memory, speed and number."""

from __future__ import annotations

import re
from dataclasses import dataclass

from rlenv.core.errors import ConfigError

GIB = 2**30
CARDS = {
    16: ("T4", 65e12, 300e9),
    24: ("A10", 125e12, 600e9),
    40: ("A100 40GB", 312e12, 1555e9),
    48: ("L40S", 362e12, 864e9),
    80: ("H100", 989e12, 3350e9),
    141: ("H200", 989e12, 4800e9),
}
"""GiB of memory to the card that is assumed: name, dense bfloat16 operations a second, bytes a second."""


@dataclass(frozen=True)
class Gpus:
    """Equal GPUs on equal nodes."""

    nodes: int
    per_node: int
    gib: float

    @property
    def total(self) -> int:
        """Number of GPUs."""
        return self.nodes * self.per_node

    @property
    def card(self) -> tuple[str, float, float]:
        """Name, operations a second and bytes a second of the largest known card with at most this memory."""
        return CARDS[max((size for size in CARDS if size <= self.gib), default=min(CARDS))]

    def __str__(self) -> str:
        return f"{f'{self.nodes}x' if self.nodes > 1 else ''}{self.per_node}x{self.gib:g}"


def parse_gpus(text: str) -> Gpus:
    """Returns the GPUs that ``NODESxGPUSxGIB`` or ``GPUSxGIB`` describes.

    >>> parse_gpus("2x8x80")
    Gpus(nodes=2, per_node=8, gib=80.0)
    >>> parse_gpus("8x80").total
    8

    Raises:
        ConfigError: the text has another form.
    """
    found = re.fullmatch(r"(?:([1-9]\d*)x)?([1-9]\d*)x([1-9]\d*(?:\.\d+)?)", text.strip())
    if not found:
        raise ConfigError(
            f"--gpus {text!r}: expected GPUS x GIB, as in 8x80 (eight GPUs of 80 GiB), or NODES x GPUS x GIB, as in "
            "2x8x80"
        )
    return Gpus(int(found[1] or 1), int(found[2]), float(found[3]))
