"""Credit assignment: advantages of whole conversations or of their turns, relative to their group. Needs only numpy.

A *group* is several conversations of the same context and persona under different seeds. Each is given as its rewards,
one per own message (a message of the trained seat). ``advantages`` returns the advantage of every own message.

Rewards count until the conversation ends, whether a speaker or a cap ended it. So the objective is the expected reward
within the caps: a truncated conversation has no reward after its end, and every baseline counts a return-to-go of 0
there.

A failed episode is not an episode with reward 0: it is left out of its group beforehand. A group of fewer than two
conversations has no baseline, and its advantages are 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import Field

from rlenv.core.settings import Settings, settings

SCALE_EPSILON = 1e-4
"""Added to a standard deviation before dividing by it, as TRL does."""

Rewards = Sequence[Sequence[float]]
"""The rewards of a group: for each of its N conversations, the [T] rewards of its own messages."""


@settings
class CreditConfig(Settings):
    """How rewards become advantages."""

    level: Literal["session", "turn"] = "session"
    """session: one advantage for all own messages of a conversation. turn: one for each message, of its
    return-to-go."""
    estimator: Literal["grpo", "rloo"] = "grpo"
    """The baseline. grpo: the mean of the group. rloo: the mean of the other conversations of the group."""
    scale: Literal["group", "batch", "none"] = "group"
    """Divide by the standard deviation of the returns in the group or in all groups (TRL's ``scale_rewards``). RLOO as
    published uses "none", which alone gives an unbiased gradient."""
    discount: float = Field(default=1.0, ge=0, le=1)
    """Discount per own message. As usual, the factor discount^t of the policy gradient itself is left out."""


def returns_to_go(rewards: Rewards, discount: float = 1.0) -> np.ndarray:
    """Returns G[i, t] = sum over s >= t of discount^(s - t) r[i, s], [N, H]; 0 after a conversation's end.

    The horizon H is the length of the group's longest conversation, beyond which all returns are 0.

    >>> returns_to_go([[1.0, 2.0, 3.0], [5.0]], discount=0.5).tolist()
    [[2.75, 3.5, 3.0], [5.0, 0.0, 0.0]]
    """
    horizon = max((len(r) for r in rewards), default=0)
    padded = np.zeros((len(rewards), horizon))
    for i, row in enumerate(rewards):
        padded[i, : len(row)] = row
    for turn in range(horizon - 2, -1, -1):
        padded[:, turn] += discount * padded[:, turn + 1]
    return padded


def session_returns(rewards: Rewards, discount: float = 1.0) -> np.ndarray:
    """Returns the return of each conversation, [N]: its return-to-go at the first own message."""
    to_go = returns_to_go(rewards, discount)
    return to_go[:, 0] if to_go.shape[1] else np.zeros(len(rewards))


def above_baseline(values: np.ndarray, estimator: Literal["grpo", "rloo"]) -> np.ndarray:
    """Returns ``values`` minus their baseline along the first axis, in the same shape; 0 if there is only one row.

    The other conversations of a group are independent of this one, so their mean (including those that have ended) is
    an unbiased baseline. The mean over the whole group multiplies the policy gradient by (N - 1) / N. Centring each
    turn's *reward* over the conversations still running at that turn would be wrong: how many such baselines are
    subtracted depends on when the conversation ends, which the chatbot's messages influence, so every decision to go on
    would be charged the mean reward of the turns to come (verl #7244).

    >>> above_baseline(np.array([1.0, 2.0, 6.0]), "grpo").tolist()
    [-2.0, -1.0, 3.0]
    >>> above_baseline(np.array([1.0, 2.0, 6.0]), "rloo").tolist()
    [-3.0, -1.5, 4.5]
    """
    count = len(values)
    if count < 2:
        return np.zeros_like(values)
    centred = values - values.mean(axis=0)
    return centred * count / (count - 1) if estimator == "rloo" else centred


def advantages(groups: Sequence[Rewards], config: CreditConfig) -> list[list[np.ndarray]]:
    """Returns the [T] advantages of the own messages of each conversation, by group.

    Args:
        groups: the rewards of each group.
        config: level, baseline, scale and discount.
    """
    returns = [session_returns(rewards, config.discount) for rewards in groups]
    by_group = []
    for rewards, total in zip(groups, returns, strict=True):
        values = returns_to_go(rewards, config.discount) if config.level == "turn" else total[:, None]
        above = above_baseline(values, config.estimator) / _scale(total, returns, config)
        width = max((len(r) for r in rewards), default=0)
        above = np.broadcast_to(above, (len(rewards), width))
        by_group.append([above[i, : len(r)].copy() for i, r in enumerate(rewards)])
    return by_group


def _scale(group: np.ndarray, batch: Sequence[np.ndarray], config: CreditConfig) -> float:
    """Returns the divisor of a group's advantages: a standard deviation with Bessel's correction, or 1."""
    if config.scale == "none":
        return 1.0
    sample = group if config.scale == "group" else np.concatenate(batch)
    return float(np.std(sample, ddof=1)) + SCALE_EPSILON if len(sample) > 1 else 1.0
