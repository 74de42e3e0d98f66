"""Learning-rate schedules of our own loops, as factors of the peak rate; SFT and DPO use transformers' own."""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["constant", "linear", "cosine", "wsd"]


def num_warmup_steps(warmup: float, total: int) -> int:
    """Returns warm-up steps: below 1 a share of ``total``, else a number.

    >>> num_warmup_steps(0.1, 50), num_warmup_steps(3, 50)
    (5, 3)
    """
    return math.ceil(warmup * total) if warmup < 1 else int(warmup)


def rate_factor(step: int, total: int, schedule: Schedule, warmup: float, *, decay: float = 0.4) -> float:
    """Returns the factor of the peak rate at ``step`` (from 0) of ``total``, in (0, 1].

    Args:
        step: optimizer steps taken so far.
        total: optimizer steps of the run.
        schedule: ``wsd`` is warm-up, stable, then a linear decay over the last ``decay`` of the steps.
        warmup: linear; below 1 a share of the steps, else their number.

    >>> [round(rate_factor(s, 4, "linear", 0), 2) for s in range(4)]
    [1.0, 0.75, 0.5, 0.25]
    """
    first = num_warmup_steps(warmup, total)
    if step < first:
        return (step + 1) / (first + 1)
    done = (step - first) / max(1, total - first)
    if schedule == "linear":
        return 1 - done
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    if schedule == "wsd":
        left = (total - step) / max(1, round(decay * total))
        return min(1.0, left)
    return 1.0
