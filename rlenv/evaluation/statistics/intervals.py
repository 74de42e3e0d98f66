"""Bootstrap intervals: how much a figure would vary with other sessions.

The messages of a session are not independent, so sessions (or users) are resampled, never messages.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import stats

from rlenv.core.types import Record

NUM_RESAMPLES = 2000
NUMBERS_AT_ONCE = 1_000_000
"""Drawn values that are in memory together: without a limit, the jackknife of n values takes n^2 of them."""
Z_95 = 1.959963984540054
"""Standard errors on each side of a normal 95 % interval."""


class Estimate(Record):
    """A figure with its interval; ``low`` and ``high`` are None if there are too few sessions for one."""

    value: float | None
    low: float | None = None
    high: float | None = None
    num: int = 0
    """Sessions (or users, or chatbots) behind it."""


def estimate(values: Sequence[float], *, confidence: float = 0.95, seed: int = 0) -> Estimate:
    """Returns the mean of independent values with its BCa bootstrap interval.

    Args:
        values: [n], one per session; NaN (a session without the figure) is left out.
        confidence: level of the interval.
        seed: seed of the resampling.

    >>> estimate([1.0, 2.0, float("nan"), 3.0]).value
    2.0
    >>> estimate([]).value is None
    True
    """
    array = np.asarray(values, dtype=np.float64)
    array = array[np.isfinite(array)]
    if not array.size:
        return Estimate(value=None)
    value = float(np.mean(array))
    if array.size < 2 or np.ptp(array) == 0:
        return Estimate(value=value, num=array.size)
    low, high = _interval((array,), np.mean, confidence, seed, paired=False)
    return Estimate(value=value, low=low, high=high, num=array.size)


def estimate_ratio(
    numerators: Sequence[float], denominators: Sequence[float], *, confidence: float = 0.95, seed: int = 0
) -> Estimate:
    """Returns sum(numerators) / sum(denominators) with an interval that resamples the pairs.

    For a rate per message when sessions of different lengths were sampled: numerators are the number of a session's
    messages with the property, denominators the number of all its messages, both [n].

    >>> estimate_ratio([1, 0], [2, 2]).value
    0.25
    >>> estimate_ratio([0], [0]).value is None
    True
    """
    over, under = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    if over.shape != under.shape:
        raise ValueError(f"numerators and denominators differ in length: {over.shape} and {under.shape}")
    counted = under > 0
    over, under = over[counted], under[counted]
    if not over.size:
        return Estimate(value=None)
    value = float(over.sum() / under.sum())
    if over.size < 2 or np.ptp(over / under) == 0:
        return Estimate(value=value, num=over.size)

    def ratio(a: np.ndarray, b: np.ndarray, axis: int = -1) -> np.ndarray:
        return np.sum(a, axis=axis) / np.sum(b, axis=axis)

    low, high = _interval((over, under), ratio, confidence, seed, paired=True)
    return Estimate(value=value, low=low, high=high, num=over.size)


def ratio_standard_error(
    numerators: Sequence[float] | np.ndarray, denominators: Sequence[float] | np.ndarray
) -> float | None:
    """Returns the linearised (Taylor) standard error of sum(numerators) / sum(denominators) over independent sessions.

    Args:
        numerators: [n] number of a session's messages with the property.
        denominators: [n] number of all its messages; a session without messages is left out.

    Returns None with fewer than two sessions.

    >>> ratio_standard_error([1, 0], [2, 2])  # residuals 1/2 and -1/2: sqrt(2 x 1/2) / 4
    0.25
    """
    over, under = np.asarray(numerators, np.float64), np.asarray(denominators, np.float64)
    over, under = over[under > 0], under[under > 0]
    n, total = under.size, under.sum()
    if n < 2:
        return None
    residuals = over - over.sum() / total * under
    return float(np.sqrt(n / (n - 1) * (residuals**2).sum()) / total)


def estimate_ratio_difference(
    before: tuple[Sequence[float], Sequence[float]],
    after: tuple[Sequence[float], Sequence[float]],
    *,
    confidence: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Returns the ratio of ``after`` minus that of ``before``; its interval resamples the contexts of both together.

    Args:
        before: numerators and denominators, each [n]: a context's messages with the property, and all its messages.
        after: the same for the same n contexts, in the same order.
        confidence: level of the interval.
        seed: seed of the resampling.

    >>> estimate_ratio_difference(([1, 1], [2, 2]), ([0, 1], [2, 2])).value
    -0.25
    """
    data = _pairs(before, after)
    if not (data[1].sum() and data[3].sum()):
        return Estimate(value=None)

    def difference(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray, axis: int = -1) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return np.sum(c, axis=axis) / np.sum(d, axis=axis) - np.sum(a, axis=axis) / np.sum(b, axis=axis)

    value, num = float(difference(*data)), data[0].size
    if not ratio_difference_standard_error(before, after):
        return Estimate(value=value, num=num)
    low, high = _interval(data, difference, confidence, seed, paired=True)
    return Estimate(value=value, low=low, high=high, num=num)


def ratio_difference_standard_error(
    before: tuple[Sequence[float], Sequence[float]], after: tuple[Sequence[float], Sequence[float]]
) -> float | None:
    """Returns the linearised standard error of the difference of two ratios that were measured on the same contexts.

    As ``ratio_standard_error``, with each context's part in both ratios taken together, so what they have in common
    is no error. It is the cluster-robust (CR1) error of regressing messages on before or after.

    Args:
        before: see ``estimate_ratio_difference``.
        after: the same.

    Returns None with fewer than two contexts, or a side without any denominator.

    >>> ratio_difference_standard_error(([1, 1], [2, 2]), ([0, 1], [2, 2]))  # parts -1/8 and 1/8: sqrt(2 x 2/64)
    0.25
    """
    a, b, c, d = _pairs(before, after)
    if a.size < 2 or not (b.sum() and d.sum()):
        return None
    parts = (c - c.sum() / d.sum() * d) / d.sum() - (a - a.sum() / b.sum() * b) / b.sum()
    return float(np.sqrt(a.size / (a.size - 1) * (parts**2).sum()))


def _pairs(
    before: tuple[Sequence[float], Sequence[float]], after: tuple[Sequence[float], Sequence[float]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns the four columns, without the contexts that have no denominator on either side."""
    a, b, c, d = (np.asarray(column, np.float64) for column in (*before, *after))
    if not a.shape == b.shape == c.shape == d.shape:
        raise ValueError(f"expected columns of equal length, got {a.size}, {b.size}, {c.size} and {d.size}")
    counted = (b > 0) | (d > 0)
    return a[counted], b[counted], c[counted], d[counted]


def _interval(
    data: tuple[np.ndarray, ...], statistic: Callable[..., Any], confidence: float, seed: int, *, paired: bool
) -> tuple[float | None, float | None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a degenerate resample makes BCa undefined: that comes back as NaN
        result = stats.bootstrap(
            data,
            statistic,
            n_resamples=NUM_RESAMPLES,
            batch=max(1, NUMBERS_AT_ONCE // len(data[0])),  # the same numbers as all at once
            paired=paired,
            vectorized=True,
            confidence_level=confidence,
            method="BCa",
            rng=np.random.default_rng(seed),
        )
    low, high = (float(v) for v in result.confidence_interval)
    return (low, high) if np.isfinite(low) and np.isfinite(high) else (None, None)
