"""Who earned what: advantages of whole conversations or of their turns, inside a group. Numpy alone.

A *group* is several conversations of the same context and persona under different seeds; each is the list of its
rewards, one for each own message. ``advantages`` gives every own message its advantage.

What a conversation earned counts until it ended, whoever ended it: a speaker, or a cap. So the objective is the
expected reward within the caps, *truncated* means no more than "nothing is earned from here on", and every baseline
counts a return-to-go of 0 from there on.

Failed episodes are no rewards of 0: they are left out of their group before they come here. A group of fewer than two
has nobody to be compared with, and gets advantages of 0.
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
"""A group's: [N], of each conversation the [T] rewards of its own messages."""


@settings
class CreditConfig(Settings):
    """How rewards become advantages."""

    level: Literal["session", "turn"] = "session"
    """session: one advantage for all own messages of a conversation. turn: each message's reward-to-go."""
    estimator: Literal["grpo", "rloo"] = "grpo"
    """The baseline: grpo is the group's mean, rloo the mean of the others."""
    scale: Literal["group", "batch", "none"] = "group"
    """Divide by the standard deviation of the returns of the group or of all groups (TRL's ``scale_rewards``). RLOO
    proper is "none"; so is an unbiased gradient."""
    discount: float = Field(default=1.0, ge=0, le=1)
    """Of a reward one own message later; as everywhere, the gradient's own factor discount^t is left out."""


def returns_to_go(rewards: Rewards, discount: float = 1.0) -> np.ndarray:
    """Returns G[i, t] = sum over s >= t of discount^(s - t) r[i, s], [N, H]; 0 after a conversation's end.

    The horizon H is that of the group's longest conversation: beyond it, all that is compared is 0.

    >>> returns_to_go([[1.0, 2.0, 3.0], [5.0]], discount=0.5).tolist()
    [[2.75, 3.5, 3.0], [5.0, 0.0, 0.0]]
    """
    horizon = max((len(r) for r in rewards), default=0)
    padded = np.zeros((len(rewards), horizon))
    for i, earned in enumerate(rewards):
        padded[i, : len(earned)] = earned
    for turn in range(horizon - 2, -1, -1):
        padded[:, turn] += discount * padded[:, turn + 1]
    return padded


def session_returns(rewards: Rewards, discount: float = 1.0) -> np.ndarray:
    """Returns what each conversation is worth as a whole, [N]: its return-to-go at the first own message."""
    found = returns_to_go(rewards, discount)
    return found[:, 0] if found.shape[1] else np.zeros(len(rewards))


def above_baseline(values: np.ndarray, estimator: Literal["grpo", "rloo"]) -> np.ndarray:
    """Returns ``values`` minus their baseline along the first axis, of the same shape; 0 where there is one alone.

    The others of a group know nothing of what this conversation says, so the mean over all of them, ended ones
    included, leaves the policy gradient as it is. The mean with oneself in it multiplies it by (N - 1) / N. What must
    not be done is to centre each turn's *reward* over those that still talk at that turn: how often that is subtracted
    depends on when the conversation ends, which the chatbot's words decide, and so each decision to go on is charged
    with the mean reward of the turns to come (verl #7244).

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
    """Returns, of each conversation of each group, the [T] advantages of its own messages.

    Args:
        groups: their rewards.
        config: level, baseline, scale and discount.
    """
    returns = [session_returns(rewards, config.discount) for rewards in groups]
    found = []
    for rewards, total in zip(groups, returns, strict=True):
        values = returns_to_go(rewards, config.discount) if config.level == "turn" else total[:, None]
        above = above_baseline(values, config.estimator) / _scale(total, returns, config)
        width = max((len(r) for r in rewards), default=0)
        above = np.broadcast_to(above, (len(rewards), width))
        found.append([above[i, : len(r)].copy() for i, r in enumerate(rewards)])
    return found


def _scale(group: np.ndarray, batch: Sequence[np.ndarray], config: CreditConfig) -> float:
    """Returns what a group's advantages are divided by: a standard deviation with Bessel's correction, or 1."""
    if config.scale == "none":
        return 1.0
    sample = group if config.scale == "group" else np.concatenate(batch)
    return float(np.std(sample, ddof=1)) + SCALE_EPSILON if len(sample) > 1 else 1.0
