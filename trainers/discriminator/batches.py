"""The batches of discriminator training and the weight of each log-odds in the loss (Eq. 3)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal

from rlenv.discriminator.rows import DiscriminatorRow


def turn_weights(rows: Sequence[DiscriminatorRow], average: Literal["session", "turn"]) -> list[float]:
    """Returns the loss weight of each position of a batch, in order; the weights sum to 1."""
    total = sum(len(row.positions) for row in rows)
    if average == "turn":
        return [1 / total] * total
    return [1 / (len(rows) * len(row.positions)) for row in rows for _ in row.positions]


def class_weights(labels: Sequence[bool]) -> tuple[float, float]:
    """Returns weights (simulated, real) that make both classes count the same; (1, 1) if they are balanced."""
    real = sum(labels)
    return len(labels) / (2 * (len(labels) - real)), len(labels) / (2 * real)


def epoch_batches(lengths: Sequence[int], batch_size: int, world_size: int, seed: int) -> list[list[int]]:
    """Returns an epoch's batches of indices: shuffled, each of sessions of similar length.

    Some batches are repeated if necessary, so that their number is a multiple of ``world_size``.
    """
    rng = random.Random(seed)
    order = list(range(len(lengths)))
    rng.shuffle(order)
    batches: list[list[int]] = []
    for start in range(0, len(order), batch_size * 16):
        pool = sorted(order[start : start + batch_size * 16], key=lambda i: lengths[i])
        batches.extend(pool[i : i + batch_size] for i in range(0, len(pool), batch_size))
    rng.shuffle(batches)
    missing = -len(batches) % world_size
    return batches + [batches[i % len(batches)] for i in range(missing)]
