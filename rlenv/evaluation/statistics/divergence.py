"""Distances between real and simulated categories: Eq. 6 (issues) and Eq. 7 (user actions, Table 4).

Both equations are undefined if a category of the real sessions never occurs in simulation. Each function states how it
handles that, and its result includes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from rlenv.core.types import Record
from rlenv.evaluation.statistics.rates import CategoryRates

UNIFORM_SHARE = 0.05
"""Share of the simulated issues that is spread evenly over all categories before Eq. 6 (Jelinek-Mercer smoothing). A
share and not a count, because added counts matter less with more sessions, which would distort pooled simulators."""
PSEUDO_COUNT = 0.5
"""Added to an action's count on both of its sides before Eq. 7 (Jeffreys' prior of a rate)."""


class Divergence(Record):
    """Eq. 6 between two distributions of issue categories."""

    kl: float | None
    """KL(real || smoothed simulated) in nats; None where one side has no issue at all."""
    kl_unsmoothed: float | None
    """The same without smoothing; None (infinite) if a category of the real sessions never occurs in simulation."""
    only_real: tuple[str, ...]
    """Categories that only real sessions have."""
    only_simulated: tuple[str, ...]
    num_real: int
    """Issues counted."""
    num_simulated: int


def kl_divergence(
    real: Mapping[str, int], simulated: Mapping[str, int], uniform_share: float = UNIFORM_SHARE
) -> Divergence:
    """Returns Eq. 6 over the categories that occur on either side.

    A category that neither side has is left out. ``uniform_share`` of the simulated distribution is spread evenly over
    the other categories, so that one missing in simulation has a large but finite cost.

    Args:
        real: count of each issue category in the real sessions.
        simulated: the same for the simulated sessions.
        uniform_share: in [0, 1]; 0 is Eq. 6 without smoothing.

    >>> round(kl_divergence({"a": 3, "b": 1}, {"a": 1, "b": 3}, 0).kl, 4)  # 3/4 ln 3 + 1/4 ln 1/3
    0.5493
    """
    names = _occurring(real, simulated)
    p = np.array([real.get(n, 0) for n in names], dtype=np.float64)
    q = np.array([simulated.get(n, 0) for n in names], dtype=np.float64)
    both = bool(p.sum() and q.sum())
    return Divergence(
        kl=_kl(p, q, uniform_share) if both else None,
        kl_unsmoothed=_kl(p, q, 0) if both else None,
        only_real=tuple(n for n, a, b in zip(names, p, q, strict=True) if a and not b),
        only_simulated=tuple(n for n, a, b in zip(names, p, q, strict=True) if b and not a),
        num_real=int(p.sum()),
        num_simulated=int(q.sum()),
    )


def _kl(p: np.ndarray, q: np.ndarray, uniform_share: float) -> float | None:
    p, q = p / p.sum(), (1 - uniform_share) * q / q.sum() + uniform_share / len(q)
    there = p > 0
    if (q[there] == 0).any():
        return None
    return float((p[there] * np.log(p[there] / q[there])).sum())


def category_deltas(real: Mapping[str, int], simulated: Mapping[str, int]) -> dict[str, float]:
    """Returns each issue category's share among the simulated minus its share among the real issues (Figure 4).

    In [-1, 1], largest first; {} where one side has no issue.
    """
    num_real, num_simulated = sum(real.values()), sum(simulated.values())
    if not num_real or not num_simulated:
        return {}
    deltas = {n: simulated.get(n, 0) / num_simulated - real.get(n, 0) / num_real for n in _occurring(real, simulated)}
    return dict(sorted(deltas.items(), key=lambda item: -item[1]))


def _occurring(real: Mapping[str, int], simulated: Mapping[str, int]) -> list[str]:
    return [n for n in dict.fromkeys([*real, *simulated]) if real.get(n, 0) or simulated.get(n, 0)]


class ActionDistance(Record):
    """Eq. 7 over a group of user actions."""

    mean: float | None
    """Mean per category, as in Table 4 (whose total lies between its groups)."""
    excess: float | None
    """The mean minus the entropy of the real distribution, the lowest value of Eq. 7: the mean Kullback-Leibler
    divergence of the categories, 0 for a perfect simulator."""
    num_categories: int


def binary_cross_entropy(p: Sequence[float], q: Sequence[float]) -> float:
    """Returns the mean over categories of -[p ln q + (1 - p) ln(1 - q)] (Eq. 7 divided by their number), in nats.

    Args:
        p: real rates, each in [0, 1].
        q: simulated rates, each in (0, 1), or equal to ``p``'s 0 or 1.

    Raises:
        ValueError: the lengths differ, there are no rates, or a simulated rate of 0 or 1 makes Eq. 7 infinite.

    >>> round(binary_cross_entropy([0.5, 0.0], [0.5, 0.0]), 4)
    0.3466
    """
    if len(p) != len(q) or not len(p):
        raise ValueError(f"expected as many simulated as real rates, and at least one; got {len(q)} and {len(p)}")
    total = sum(_cross(a, b) + _cross(1 - a, 1 - b) for a, b in zip(p, q, strict=True))
    return float(total / len(p))


def _cross(p: float, q: float) -> float:
    if p == 0:
        return 0.0
    if q <= 0:
        raise ValueError("a category that real sessions have never occurs in simulation: smooth its rate first")
    return float(-p * np.log(q))


def action_distance(real: CategoryRates, simulated: CategoryRates, categories: Sequence[str]) -> ActionDistance:
    """Returns Eq. 7 between the action rates of real and simulated messages, over one group of categories.

    Empty categories: both rates are (count + 0.5) / (messages + 1), so an action that the simulator never shows costs
    about p ln(2 x messages).
    """
    if not real.num_messages or not simulated.num_messages or not categories:
        return ActionDistance(mean=None, excess=None, num_categories=len(categories))
    p = [_smoothed(real, name) for name in categories]
    q = [_smoothed(simulated, name) for name in categories]
    mean = binary_cross_entropy(p, q)
    return ActionDistance(mean=mean, excess=mean - binary_cross_entropy(p, p), num_categories=len(categories))


def _smoothed(rates: CategoryRates, name: str) -> float:
    return (rates.rates[name].count + PSEUDO_COUNT) / (rates.num_messages + 2 * PSEUDO_COUNT)
