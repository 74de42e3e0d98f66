"""Is the discriminator's probability a probability? Reliability bins, expected calibration error and Brier score."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import expit

from rlenv.types import Record


class Bin(Record):
    """Decisions whose P(real) falls into one interval."""

    low: float
    high: float
    num: int
    mean_probability: float | None
    share_real: float | None


class Calibration(Record):
    """How P(real) stands to the share that is real."""

    bins: tuple[Bin, ...]
    expected_error: float | None
    """Mean |P - share| over decisions, by bin (ECE)."""
    brier: float | None
    """Mean squared difference of P and 0 or 1: 0.25 is what P = 0.5 always has."""
    num: int


def calibration(real: Sequence[bool], log_odds: Sequence[float], num_bins: int = 10) -> Calibration:
    """Returns the calibration of log-odds of P(real).

    Raises:
        ValueError: different lengths, or a log-odds that is no number.

    >>> calibration([True, False], [0.0, 0.0]).brier
    0.25
    """
    y, x = np.asarray(real, np.float64), np.asarray(log_odds, np.float64)
    if y.shape != x.shape or np.isnan(x).any():
        raise ValueError(f"expected a number for each of {y.size} decisions, got {int((~np.isnan(x)).sum())}")
    p = expit(x)
    edges = np.linspace(0, 1, num_bins + 1)
    place = np.clip(np.digitize(p, edges[1:-1]), 0, num_bins - 1)
    bins = []
    for i in range(num_bins):
        there = place == i
        bins.append(
            Bin(
                low=float(edges[i]),
                high=float(edges[i + 1]),
                num=int(there.sum()),
                mean_probability=float(p[there].mean()) if there.any() else None,
                share_real=float(y[there].mean()) if there.any() else None,
            )
        )
    gaps = [b.num * abs(b.mean_probability - b.share_real) for b in bins if b.num]  # type: ignore[operator]
    return Calibration(
        bins=tuple(bins),
        expected_error=float(sum(gaps) / y.size) if y.size else None,
        brier=float(((p - y) ** 2).mean()) if y.size else None,
        num=int(y.size),
    )
