"""A reward that a random model can earn: the share of a message's characters that are small letters."""

from __future__ import annotations

from rlenv.core.protocols import Reward
from rlenv.core.types import ConversationState


def small_letters() -> Reward:
    """Returns the reward; name it ``tests.launch.toy_reward:small_letters``."""

    async def reward(before: ConversationState, after: ConversationState) -> dict[str, float]:
        text = after.turns[len(before.turns)].utterance.text if len(after.turns) > len(before.turns) else ""
        return {"small_letters": sum(c.islower() for c in text) / max(1, len(text))}

    return reward
