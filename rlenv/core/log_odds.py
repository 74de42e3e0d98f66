"""Eq. 4: turn rewards, the change of the discriminator's log-odds caused by each user message."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

PRIOR_LOG_ODDS = 0.0
"""Log-odds before the first user message. Eq. 4 leaves p_0 open; 0 is the prior of balanced data."""


def turn_rewards(log_odds: Sequence[float]) -> np.ndarray:
    """Returns r_t = log_odds[t] - log_odds[t - 1] (Eq. 4), [T]; their sum is the last log-odds minus the first.

    Args:
        log_odds: [T + 1], index 0 the prior.

    >>> turn_rewards([0.0, 1.5, -0.5]).tolist()
    [1.5, -2.0]
    """
    return np.diff(np.asarray(log_odds, dtype=np.float64))


def branch_rewards(log_odds: Sequence[float], turn: int, alternatives: Sequence[float]) -> np.ndarray:
    """Returns the reward (Eq. 4) of each alternative for user turn ``turn``, [n].

    Args:
        log_odds: [T + 1], those of the session that the alternatives branch off from.
        turn: counted from 1.
        alternatives: [n], the log-odds after each alternative.
    """
    return np.asarray(alternatives, dtype=np.float64) - log_odds[turn - 1]
