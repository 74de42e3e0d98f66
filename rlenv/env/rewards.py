"""Weighted sums of rewards, and the check that a reward is defined for the agent's seat."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rlenv.core.aio import all_of
from rlenv.core.protocols import Reward
from rlenv.core.types import ConversationState, Seat


@dataclass(frozen=True)
class WeightedReward:
    """The weighted sum of rewards. A part has its reward's name, or ``name/part`` if the reward has several parts."""

    terms: Mapping[str, tuple[float, Reward]]
    """Name to weight and reward."""

    async def __call__(self, before: ConversationState, after: ConversationState) -> dict[str, float]:
        """Returns every part, multiplied by its weight."""
        found = await all_of(lambda term: term[1](before, after), self.terms.values())
        return {
            name if len(parts) == 1 else f"{name}/{part}": weight * value
            for (name, (weight, _)), parts in zip(self.terms.items(), found, strict=True)
            for part, value in parts.items()
        }


def misfits(reward: Reward, seat: Seat | None) -> list[str]:
    """Returns why a reward is not defined for an agent in ``seat``, one entry per problem; empty if it is."""
    if isinstance(reward, WeightedReward):
        return [f"{name}: {why}" for name, (_, part) in reward.terms.items() for why in misfits(part, seat)]
    seats = getattr(reward, "seats", None)
    if seat is None or seats is None or seat in seats:
        return []
    return [f"defined only for an agent in seat {' or '.join(map(repr, seats))}, got seat {seat!r}"]
