"""The input of a policy-gradient step: token ids, a mask, the sampler's log-probs, and each token's advantage.

    rows, counts = training_rows(groups, CreditConfig(level="turn"))

Combines ``trajectory`` (tokens and rewards) and ``credit`` (advantages) into rows for the learner. Independent of torch
and of losses.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from pydantic import Field, model_validator

from rlenv.core.errors import ConfigError
from rlenv.core.types import Record
from rlenv.learning.credit import CreditConfig, advantages
from rlenv.learning.trajectory import Trajectory

COUNTS = (
    "groups",
    "conversations",
    "failed",
    "lone_groups",
    "own_turns",
    "masked_turns",
    "weighted_turns",
    "truncated",
)


class ConversationGroup(Record):
    """Conversations that are compared with each other: same context, persona and simulator, different seeds."""

    group_id: str
    trajectories: tuple[Trajectory, ...] = ()
    """The conversations that did not fail."""
    turn_weights: tuple[tuple[float, ...], ...] = ()
    """Weights, 0 to 1, of each trajectory's own messages (``rlenv.learning.simulator_faults``); empty: all are 1."""
    num_failed: int = 0
    """Episodes that failed and are left out."""

    @model_validator(mode="after")
    def _comparable(self) -> ConversationGroup:
        known = [t.provenance for t in self.trajectories if t.provenance is not None]
        problems = [
            f"{len(values)} different {what}; a group has one"
            for what, values in (
                ("contexts", {p.context_id for p in known}),
                ("simulators", {p.simulator.key for p in known}),
            )
            if len(values) > 1
        ]
        if len({p.seeds for p in known}) < len(known):
            problems.append("two conversations have equal seeds; expected a different seed for each")
        if self.turn_weights and [len(w) for w in self.turn_weights] != [len(t.rewards) for t in self.trajectories]:
            problems.append("expected one turn weight for each own message")
        if any(not 0 <= weight <= 1 for weights in self.turn_weights for weight in weights):
            problems.append("turn weights are outside 0 to 1")
        if problems:
            raise ConfigError("\n".join(f"group {self.group_id}: {problem}" for problem in problems))
        return self


class TrainingRow(Record):
    """One conversation as training reads it. ``mask``, ``logprobs`` and ``advantages`` are as long as
    ``completion_ids``."""

    episode_id: str
    group_id: str
    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    mask: tuple[int, ...]
    """1 on the tokens trained on: own tokens of messages that are not masked."""
    logprobs: tuple[float, ...]
    """Log-probs under the sampler; 0.0 where nothing was sampled."""
    advantages: tuple[float, ...]
    """Advantages times the message's weight; 0.0 outside the mask."""
    reward: float
    """The undiscounted sum of the conversation's rewards."""
    reward_parts: dict[str, float] = Field(default_factory=dict)
    """The sum of each part of the reward."""
    num_turns: int
    """Number of own messages."""
    sampler: str | None = None
    """Digest of the adapter that sampled the conversation."""
    truncated: bool = False


def training_rows(
    groups: Sequence[ConversationGroup], config: CreditConfig
) -> tuple[list[TrainingRow], dict[str, int]]:
    """Returns (rows, counts): one row for each conversation of a group of two or more, in order.

    A group with fewer than two conversations gives no rows and is counted in ``lone_groups``.

    Args:
        groups: the groups, without failed episodes.
        config: how rewards become advantages.
    """
    counts: Counter[str] = Counter(dict.fromkeys(COUNTS, 0))
    compared = [group for group in groups if len(group.trajectories) > 1]
    counts["groups"], counts["lone_groups"] = len(groups), len(groups) - len(compared)
    counts["failed"] = sum(group.num_failed for group in groups)
    by_group = advantages([[t.rewards for t in group.trajectories] for group in compared], config)
    rows = []
    for group, of_group in zip(compared, by_group, strict=True):
        all_weights = group.turn_weights or [(1.0,) * len(t.rewards) for t in group.trajectories]
        for trajectory, of_turns, weights in zip(group.trajectories, of_group, all_weights, strict=True):
            rows.append(_row(group.group_id, trajectory, of_turns.tolist(), weights))
            counts["conversations"] += 1
            counts["own_turns"] += len(weights)
            counts["masked_turns"] += sum(weight == 0 for weight in weights)
            counts["weighted_turns"] += sum(0 < weight < 1 for weight in weights)
            counts["truncated"] += trajectory.truncated
    return rows, dict(counts)


def sum_parts(steps: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Returns the sum of each reward part over several steps.

    >>> sum_parts([{"a": 1.0}, {"a": -3.0, "b": 0.5}])
    {'a': -2.0, 'b': 0.5}
    """
    sums: dict[str, float] = {}
    for parts in steps:
        for name, value in parts.items():
            sums[name] = sums.get(name, 0.0) + value
    return sums


def _row(group_id: str, trajectory: Trajectory, of_turns: Sequence[float], weights: Sequence[float]) -> TrainingRow:
    """Returns the row of one trajectory.

    Args:
        group_id: the group's id.
        trajectory: the conversation.
        of_turns: [T] advantages of its own messages.
        weights: [T] weights of its own messages.
    """
    of_token = [
        (of_turns[turn - 1] * weights[turn - 1], weights[turn - 1]) if turn else (0.0, 0.0)
        for turn in trajectory.turn_of_token
    ]
    return TrainingRow(
        episode_id=trajectory.episode_id,
        group_id=group_id,
        prompt_ids=trajectory.prompt_ids,
        completion_ids=trajectory.completion_ids,
        mask=tuple(int(weight > 0) for _, weight in of_token),
        logprobs=trajectory.logprobs,
        advantages=tuple(advantage for advantage, _ in of_token),
        reward=sum(trajectory.rewards),
        reward_parts=sum_parts(trajectory.reward_parts),
        num_turns=len(trajectory.rewards),
        sampler=trajectory.adapter.digest if trajectory.adapter else None,
        truncated=trajectory.truncated,
    )
