"""Nearest-neighbour statistics in an embedding space.

They measure whether two sets of sessions can be told apart, and whether a simulated session is nearest to the real
session of its own context. Independent of text and models: the input is vectors, users and contexts. Vectors have unit
length, so the nearest neighbour has the highest cosine similarity. Sessions of the same user are never neighbours,
because a user's sessions are alike, and a real session and its simulated counterpart share a context.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rlenv.core.types import Record
from rlenv.evaluation.statistics.intervals import Z_95, Estimate, estimate_ratio

TIE = 1e-9
"""Similarities that differ by less are ties; tied neighbours share the vote."""


class Grounding(Record):
    """How close simulated sessions are to the real session of the same context."""

    own_nearest: Estimate
    """Share whose nearest real session is that of their own context."""
    chance: float | None
    """The same share, were neighbours drawn at random."""
    own_similarity: Estimate
    """Mean cosine similarity to the real session of the own context."""
    other_similarity: Estimate
    """The same to the real sessions of other users."""


def neighbour_accuracy(
    real: np.ndarray, other: np.ndarray, real_users: Sequence[str], other_users: Sequence[str]
) -> Estimate:
    """Returns the share of sessions whose nearest neighbour is of their own kind: the 1-NN two-sample test.

    0.5 means that the two kinds cannot be told apart. It is exactly chance if each user has a session on both sides,
    because the neighbours do not depend on which of a user's two sessions is called real. Below 0.5, sessions are
    nearer to the other kind than to their own.

    The interval treats decisions with a common user as dependent (the variance for dyadic data of Fafchamps and Gubert,
    2007): two sessions that are each other's neighbours are one piece of evidence, not two.

    Args:
        real: unit vectors [n, d].
        other: unit vectors [n, d], equally many, so that neither kind is the more likely neighbour.
        real_users: [n] users of the real sessions.
        other_users: [n] users of the other sessions.

    Raises:
        ValueError: the numbers of sessions differ.
    """
    if len(real) != len(other):
        raise ValueError(f"expected as many of each kind, got {len(real)} and {len(other)}")
    users = np.array([*real_users, *other_users])
    if len(np.unique(users)) < 3:  # with two, every neighbour is the one other user's
        return Estimate(value=None)
    vectors = np.concatenate([real, other])
    is_real = np.arange(len(vectors)) < len(real)
    nearest = _nearest(vectors @ vectors.T, users[:, None] != users[None, :])
    counted = nearest.any(axis=1)
    nearest = nearest[counted]
    same = is_real[counted, None] == is_real[None, :]
    right = (nearest & same).sum(axis=1) / nearest.sum(axis=1)
    value = float(right.mean())
    names, place = np.unique(users, return_inverse=True)
    member = np.eye(len(names))[place]
    touched = member[counted] + nearest @ member
    residuals = right - value
    variance = residuals @ ((touched @ touched.T) > 0) @ residuals
    error = float(np.sqrt(max(variance, residuals @ residuals))) / len(right)
    low, high = max(0.0, value - Z_95 * error), min(1.0, value + Z_95 * error)
    return Estimate(value=value, low=low if error else None, high=high if error else None, num=len(right))


def grounding(
    simulated: np.ndarray,
    real: np.ndarray,
    own: Sequence[int],
    simulated_users: Sequence[str],
    real_users: Sequence[str],
    seed: int = 0,
) -> Grounding:
    """Returns how close simulated sessions are to the real session of their own context, compared with other users'.

    Args:
        simulated: unit vectors [m, d].
        real: unit vectors [n, d].
        own: [m] index of the real session with the context of each simulated one.
        simulated_users: [m] users of the simulated sessions.
        real_users: [n] users of the real sessions.
        seed: seed of the intervals, which resample users.
    """
    if not len(simulated) or len(set(real_users)) < 2:
        nothing = Estimate(value=None)
        return Grounding(own_nearest=nothing, chance=None, own_similarity=nothing, other_similarity=nothing)
    places, similarity = np.arange(len(simulated)), simulated @ real.T
    others = np.array(simulated_users)[:, None] != np.array(real_users)[None, :]
    others[places, list(own)] = False
    candidates = others.copy()
    candidates[places, list(own)] = True
    nearest = _nearest(similarity, candidates)
    hits = nearest[places, list(own)] / nearest.sum(axis=1)
    num_others = others.sum(axis=1)
    apart = np.where(others, similarity, 0.0).sum(axis=1) / num_others

    def by_user(values: np.ndarray) -> Estimate:
        _, place = np.unique(np.array(simulated_users), return_inverse=True)
        found = estimate_ratio(np.bincount(place, values).tolist(), np.bincount(place).tolist(), seed=seed)
        return found.model_copy(update={"num": len(values)})

    return Grounding(
        own_nearest=by_user(hits),
        chance=float((1 / (1 + num_others)).mean()),
        own_similarity=by_user(similarity[places, list(own)]),
        other_similarity=by_user(apart),
    )


def _nearest(similarity: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """Returns [n, m], True at a row's nearest neighbours among the allowed ones; several if they tie."""
    masked = np.where(allowed, similarity, -np.inf)
    return allowed & (masked >= masked.max(axis=1, keepdims=True) - TIE)
