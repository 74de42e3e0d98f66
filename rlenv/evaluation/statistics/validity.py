"""Predictive validity: do failure rates measured with a simulator predict those with real users?

Correlation over chatbots (Table 3, Figure 6, B.4) and the replication of A/B tests (Table 5, B.5).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from scipy import stats

from rlenv.core.types import Record
from rlenv.evaluation.statistics.intervals import ratio_standard_error


class Correlation(Record):
    """One row of Table 3, with its p-value and interval."""

    r: float | None
    """Pearson's r; None with fewer than three chatbots or if one side does not vary."""
    p: float | None
    """Two-sided, of t = r sqrt((n - 2) / (1 - r^2)) with n - 2 degrees of freedom (B.4)."""
    r_low: float | None
    """95 % percentile bootstrap over chatbots."""
    r_high: float | None
    spearman: float | None
    spearman_p: float | None
    num: int
    """Chatbot configurations."""


def correlation_p_value(r: float, num: int) -> float:
    """Returns the two-sided p-value of a Pearson correlation by the t-test of Appendix B.4.

    Raises:
        ValueError: fewer than three pairs, or r outside [-1, 1].

    >>> round(correlation_p_value(0.685, 14), 3)  # the paper's UserSim-160K-it1
    0.007
    """
    if num < 3 or not -1 <= r <= 1:
        raise ValueError(f"expected r in [-1, 1] and 3 pairs or more, got r = {r} of {num}")
    if abs(r) == 1:
        return 0.0
    return float(2 * stats.t.sf(abs(r) * math.sqrt((num - 2) / (1 - r * r)), num - 2))


def correlate(
    real: Sequence[float], simulated: Sequence[float], *, seed: int = 0, resamples: int = 5000
) -> Correlation:
    """Returns the correlation of a simulator's issue rates with the real ones over chatbot configurations.

    Args:
        real: [n] issue rate of each chatbot with real users.
        simulated: [n] the same chatbots' rates in simulation.
        seed: seed of the bootstrap.
        resamples: number of resamples of the bootstrap.

    Raises:
        ValueError: the lengths differ, or a rate is NaN (leave that chatbot out and report it).
    """
    x, y = np.asarray(real, np.float64), np.asarray(simulated, np.float64)
    if x.shape != y.shape:
        raise ValueError(f"expected one simulated rate a real one, got {y.size} and {x.size}")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("a rate is no number: a chatbot without sessions must be left out")
    if x.size < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return Correlation(r=None, p=None, r_low=None, r_high=None, spearman=None, spearman_p=None, num=x.size)
    r = float(np.clip(np.corrcoef(x, y)[0, 1], -1, 1))
    low, high = _bootstrap_r(x, y, seed, resamples)
    ranks = stats.spearmanr(x, y)
    return Correlation(
        r=r,
        p=correlation_p_value(r, x.size),
        r_low=low,
        r_high=high,
        spearman=float(ranks.statistic),
        spearman_p=float(ranks.pvalue),
        num=x.size,
    )


def _bootstrap_r(x: np.ndarray, y: np.ndarray, seed: int, resamples: int) -> tuple[float | None, float | None]:
    rng = np.random.default_rng(seed)
    drawn = rng.integers(x.size, size=(resamples, x.size))
    a, b = x[drawn], y[drawn]
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    scale = np.sqrt((a * a).sum(1) * (b * b).sum(1))
    usable = scale > 1e-12 * np.ptp(x) * np.ptp(y)  # a resample of one chatbot alone has no correlation
    if usable.sum() < resamples / 2:
        return None, None
    low, high = np.quantile((a * b).sum(1)[usable] / scale[usable], [0.025, 0.975])
    return float(low), float(high)


class Proportions(Record):
    """A two-proportion z-test (Table 5)."""

    control: float
    treatment: float
    z: float | None
    """Above 0 where the treatment's rate is higher; None where no one or everyone has the event."""
    p: float | None
    """Two-sided."""
    num_control: float
    """Messages, or their effective number."""
    num_treatment: float


def two_proportion_test(
    events_control: float, num_control: float, events_treatment: float, num_treatment: float
) -> Proportions:
    """Returns the pooled two-proportion z-test of Table 5, two-sided.

    Messages are treated as independent, as in the paper. If failures cluster in sessions, the p-value is too small;
    pass effective numbers as ``num_*`` then (``effective_number``).

    Raises:
        ValueError: there are no messages, or more events than messages.
    """
    for events, num in ((events_control, num_control), (events_treatment, num_treatment)):
        if num < 1 or not 0 <= events <= num:
            raise ValueError(f"expected events among at least one message, got {events} of {num}")
    control, treatment = events_control / num_control, events_treatment / num_treatment
    pooled = (events_control + events_treatment) / (num_control + num_treatment)
    error = math.sqrt(pooled * (1 - pooled) * (1 / num_control + 1 / num_treatment))
    z = (treatment - control) / error if error else None
    return Proportions(
        control=control,
        treatment=treatment,
        z=z,
        p=None if z is None else float(2 * stats.norm.sf(abs(z))),
        num_control=num_control,
        num_treatment=num_treatment,
    )


def effective_number(events: Sequence[int], messages: Sequence[int]) -> float | None:
    """Returns the effective number of independent messages: messages divided by the design effect.

    Args:
        events: [n] messages with an issue, by session.
        messages: [n] messages, by session.

    Returns None with fewer than two sessions, or where nothing varies. Never more than the messages there are.
    """
    e, m = np.asarray(events, np.float64), np.asarray(messages, np.float64)
    error, total = ratio_standard_error(e, m), m.sum()
    if not error:
        return None
    rate = e[m > 0].sum() / total
    independent = rate * (1 - rate) / total
    return float(total / max(1.0, error**2 / independent)) if independent else None


Verdict = Literal["agree", "not contradicted", "reversal"]


def replication(simulated: Proportions, real: Proportions, alpha: float = 0.05) -> Verdict:
    """Returns whether a simulated A/B test predicted the real one (Appendix B.5).

    ``agree``: same direction. ``reversal``: opposite directions, both significant at ``alpha``; the paper's criterion
    is that none occurs. ``not contradicted``: opposite directions (or no difference), at least one not significant.
    """
    a, b = simulated.treatment - simulated.control, real.treatment - real.control
    if a * b > 0:
        return "agree"
    significant = all(t.p is not None and t.p < alpha for t in (simulated, real))
    return "reversal" if a * b < 0 and significant else "not contradicted"


def messages_needed(control: float, treatment: float, *, alpha: float = 0.05, power: float = 0.8) -> int:
    """Returns the chatbot messages per arm with which the z-test detects a difference of rates with ``power``.

    For the number of sessions, divide by the messages per session and multiply by the design effect.

    Raises:
        ValueError: equal rates, or one outside (0, 1).

    >>> messages_needed(0.0265, 0.0325)
    12483
    """
    if control == treatment or not (0 < control < 1 and 0 < treatment < 1):
        raise ValueError(f"expected two different rates in (0, 1), got {control} and {treatment}")
    mean = (control + treatment) / 2
    z_alpha, z_power = stats.norm.isf(alpha / 2), stats.norm.ppf(power)
    spread = z_alpha * math.sqrt(2 * mean * (1 - mean)) + z_power * math.sqrt(
        control * (1 - control) + treatment * (1 - treatment)
    )
    return math.ceil((spread / (treatment - control)) ** 2)
