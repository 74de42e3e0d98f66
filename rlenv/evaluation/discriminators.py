"""Table 2 with intervals: accuracy, F1 and MCC by turn, with the controls and the calibration of a discriminator.

Contexts are resampled: a real session and its simulated counterpart, with all their turns, are one draw.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import expit

from rlenv.core.types import Record
from rlenv.discriminator.classification import TABLE_2_TURNS, classification_scores
from rlenv.discriminator.labelled import ScoredSession
from rlenv.evaluation.statistics.intervals import NUM_RESAMPLES, Estimate

OVERALL, SESSION = "overall", "session"


class Judgement(Record):
    """The scores of a discriminator and its controls on the validation sessions."""

    scored: tuple[ScoredSession, ...]
    leak: tuple[ScoredSession, ...] = ()
    """The same for the leak control, which does not see the user's words; empty if there is none."""
    power: tuple[ScoredSession, ...] = ()
    """The same for the power control, trained against shuffled words; empty if there is none."""
    referee_accuracy: float | None = None
    """Accuracy of the referee (TF-IDF) on whole sessions."""


class Cell(Record):
    """One cell of Table 2, each figure with its interval."""

    accuracy: Estimate
    f1: Estimate
    mcc: Estimate
    num_decisions: int


class DiscriminatorRow(Record):
    """One row of Table 2 with its controls."""

    name: str
    cells: dict[str, Cell]
    """By turn ("1", "5", ...), "overall" (all turns of all sessions) and "session" (each one's last turn)."""
    leak: Cell | None
    """Overall accuracy without the user's words: near 0.5 there is no leak."""
    power: Cell | None
    """Overall accuracy against shuffled words: at 0.90 or more the discriminator is strong enough."""
    referee_accuracy: float | None
    calibration: Calibration
    num_unscored: int
    """Sessions left out because a log-odds is NaN or missing."""


def discriminator_row(
    name: str, result: Judgement, turns: Sequence[int] = TABLE_2_TURNS, seed: int = 0
) -> DiscriminatorRow:
    """Returns a discriminator's figures; a turn that no session reaches has None in it, never 0.

    Args:
        name: the simulator that it was trained against.
        result: its validation log-odds.
        turns: the turns to score, from 1.
        seed: seed of the bootstrap.
    """
    scored = [s for s in result.scored if _usable(s)]
    cells = {str(t): _cell(scored, slice(t - 1, t), seed) for t in turns}
    cells |= {OVERALL: _cell(scored, slice(None), seed), SESSION: _cell(scored, slice(-1, None), seed)}
    decided = [(s.real, value) for s in scored for value in s.log_odds[1:]]
    return DiscriminatorRow(
        name=name,
        cells=cells,
        leak=_control(result.leak, seed),
        power=_control(result.power, seed),
        referee_accuracy=result.referee_accuracy,
        calibration=calibration([real for real, _ in decided], [value for _, value in decided]),
        num_unscored=len(result.scored) - len(scored),
    )


def _usable(scored: ScoredSession) -> bool:
    return len(scored.log_odds) > 1 and all(math.isfinite(value) for value in scored.log_odds)


def _control(scored: Sequence[ScoredSession], seed: int) -> Cell | None:
    usable = [s for s in scored if _usable(s)]
    return _cell(usable, slice(None), seed) if usable else None


def _cell(scored: Sequence[ScoredSession], which: slice, seed: int) -> Cell:
    decisions = [(s, value > 0) for s in scored for value in s.log_odds[1:][which]]
    scores = classification_scores([s.real for s, _ in decisions], [called for _, called in decisions])
    place = {context: i for i, context in enumerate(dict.fromkeys(s.context_id for s, _ in decisions))}
    counts = np.zeros((len(place), 4))
    for s, called in decisions:
        counts[place[s.context_id], _KIND[s.real, called]] += 1
    low, high = _intervals(counts, seed)
    figures = {
        key: Estimate(value=getattr(scores, key), low=low.get(key), high=high.get(key), num=len(place))
        for key in ("accuracy", "f1", "mcc")
    }
    return Cell(**figures, num_decisions=scores.num)


_KIND = {(True, True): 0, (False, True): 1, (True, False): 2, (False, False): 3}
"""(real, called real) to the column of true positives, false positives, false negatives, true negatives."""


def _intervals(counts: np.ndarray, seed: int) -> tuple[dict[str, float], dict[str, float]]:
    """Returns the 2.5 % and 97.5 % percentiles of each score over resampled contexts; {} with fewer than two."""
    n = len(counts)
    if n < 2:
        return {}, {}
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(n, np.full(n, 1 / n), size=NUM_RESAMPLES) @ counts
    low, high = {}, {}
    for key, scores in _scores_of_counts(drawn.round()).items():
        values = scores[~np.isnan(scores)]
        if len(values) > NUM_RESAMPLES / 2:
            low[key], high[key] = (float(q) for q in np.quantile(values, [0.025, 0.975]))
    return low, high


def _scores_of_counts(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Returns ``classification_scores`` of many sets of predictions at once, each [R]; NaN where undefined.

    scikit-learn takes milliseconds for each set, too long for thousands of resamples.

    Args:
        counts: [R, 4] true positives, false positives, false negatives, true negatives.
    """
    tp, fp, fn, tn = counts.T
    product = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    with np.errstate(divide="ignore", invalid="ignore"):
        mcc = np.where(product > 0, (tp * tn - fp * fn) / np.sqrt(product), 0.0)
        return {
            "accuracy": (tp + tn) / counts.sum(axis=1),
            "f1": 2 * tp / (2 * tp + fp + fn),
            "mcc": np.where((tp + fn) * (tn + fp) > 0, mcc, np.nan),
        }


class Bin(Record):
    """The predictions whose P(real) is in one interval."""

    low: float
    high: float
    num: int
    mean_probability: float | None
    share_real: float | None


class Calibration(Record):
    """How well P(real) agrees with the share of real sessions."""

    bins: tuple[Bin, ...]
    expected_error: float | None
    """Mean |P - share| over predictions, by bin (expected calibration error)."""
    brier: float | None
    """Mean squared difference between P and the label 0 or 1; P = 0.5 throughout gives 0.25."""
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
