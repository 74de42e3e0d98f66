"""Eq. 4: what each user message does to the discriminator's belief, as a reward."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

PRIOR_LOG_ODDS = 0.0
"""log-odds before the first user message: Eq. 4 leaves p_0 open, and 0 is the prior of balanced data."""


def turn_rewards(log_odds: Sequence[float]) -> np.ndarray:
    """Returns r_t = log_odds[t] - log_odds[t - 1] (Eq. 4), [T]; they sum to the last log-odds minus the first.

    Args:
        log_odds: [T + 1], index 0 the prior.

    >>> turn_rewards([0.0, 1.5, -0.5]).tolist()
    [1.5, -2.0]
    """
    return np.diff(np.asarray(log_odds, dtype=np.float64))


def branch_rewards(log_odds: Sequence[float], turn: int, alternatives: Sequence[float]) -> np.ndarray:
    """Returns the Eq. 4 reward of each alternative [n] for user turn ``turn`` (from 1).

    Args:
        log_odds: [T + 1] of the session that the alternatives branch off.
        alternatives: [n] log-odds after each alternative.
    """
    return np.asarray(alternatives, dtype=np.float64) - log_odds[turn - 1]
