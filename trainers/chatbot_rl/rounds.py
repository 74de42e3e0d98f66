"""A round of rollouts as TRL's ``rollout_func``: takes the learner's adapter, returns rows in groups of equal size.

    adapter -> new folder -> rollouts(round, folder) -> [ConversationGroup] -> rows -> TRL's batch

Independent of how the conversations are made: ``rollouts`` is any callable. TRL requires complete groups, so a
conversation that failed is replaced by one masked token without a reward, which TRL leaves out of all baselines.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from rlenv.core.errors import PhaseError
from rlenv.learning.credit import CreditConfig
from rlenv.learning.rows import ConversationGroup, TrainingRow, sum_parts, training_rows
from trainers.backend.huggingface import save_adapter
from trainers.backend.worker import Worker
from trainers.chatbot_rl.adapter_versions import AdapterVersions


class Rollouts(Protocol):
    """Makes the conversations of a round.

    Equal arguments must give equal conversations, so that a resumed run ends like an uninterrupted one. Make it a
    frozen dataclass: a run is resumed only if its fields are equal, except those with ``field(compare=False)`` (actor
    handles).
    """

    def __call__(self, number: int, adapter_folder: str) -> Sequence[ConversationGroup]:
        """Returns up to ``num_groups`` groups of up to ``group_size`` conversations.

        Args:
            number: the round's number, from 0.
            adapter_folder: the learner's adapter; every round's adapter has a path of its own.
        """
        ...


class ConversationRounds:
    """A ``rollout_func`` of TRL 1.16: calls ``rollouts`` once per round, on rank 0, and gives each rank its share.

    Args:
        rollouts: makes a round's conversations.
        num_groups: groups per round.
        group_size: conversations per group.
        updates: optimizer steps per round.
        credit: how rewards become advantages.
        max_staleness: a conversation sampled by an adapter more than this many rounds old is left out and counted.
        worker: the worker's place in the run.
        start_digest: digest of the adapter that training started from.
    """

    def __init__(
        self,
        rollouts: Rollouts,
        *,
        num_groups: int,
        group_size: int,
        updates: int,
        credit: CreditConfig,
        max_staleness: int,
        worker: Worker,
        start_digest: str,
    ) -> None:
        self.rollouts = rollouts
        self.shape = (num_groups, group_size)
        self.updates = updates
        self.credit = credit
        self.max_staleness = max_staleness
        self.worker = worker
        self.versions = AdapterVersions(worker.scratch / "versions", start_digest)

    def __call__(self, prompts: Sequence[str], trainer: Any) -> dict[str, list[Any]]:
        """Returns this process's rows: TRL's fields, ``conversation_return`` and ``token_advantages``.

        Raises:
            PhaseError: there are too many conversations, or none to learn from.
        """
        from accelerate.utils import broadcast_object_list

        number = trainer.state.global_step // self.updates
        folder = self._write(number, trainer)
        batch: list[Any] = [None]
        if self.worker.rank == 0:
            began = time.monotonic()
            groups = self.rollouts(number, str(folder))
            metrics = {"rollouts/seconds": time.monotonic() - began}
            rows, row_metrics = self._rows(number, groups)
            for key, value in (metrics | row_metrics).items():
                trainer._metrics["train"][key].append(value)
            batch = [trl_batch(rows, groups, self.shape, trainer.processing_class.eos_token_id)]
        [whole] = broadcast_object_list(batch)
        first = self.worker.rank * len(prompts)
        return {key: values[first : first + len(prompts)] for key, values in whole.items()}

    def _write(self, number: int, trainer: Any) -> Path:
        """Returns the folder of the learner's current adapter; on ranks above 0, a path that does not exist."""
        partial = self.versions.root / ".partial"
        if self.worker.rank == 0:
            shutil.rmtree(partial, ignore_errors=True)
        save_adapter(trainer, self.worker, trainer.processing_class, str(partial))
        if self.worker.rank > 0:
            return partial
        self.versions.forget_before(number - self.max_staleness - 1)
        return self.versions.add(number, partial)

    def _rows(self, number: int, groups: Sequence[ConversationGroup]) -> tuple[list[TrainingRow], dict[str, float]]:
        num_groups, group_size = self.shape
        sizes = [len(group.trajectories) for group in groups]
        if len(groups) > num_groups or max(sizes, default=0) > group_size:
            raise PhaseError(
                f"round {number}: expected up to {num_groups} groups of up to {group_size} conversations, got "
                f"{len(groups)} of up to {max(sizes, default=0)}"
            )
        if len({group.group_id for group in groups}) < len(groups):
            raise PhaseError(f"round {number}: two groups have the same group_id")
        ages = [[number - self.versions.number_of(_digest(t)) for t in group.trajectories] for group in groups]
        all_ages = [age for in_group in ages for age in in_group]
        fresh = [
            _only(group, [age <= self.max_staleness for age in in_group])
            for group, in_group in zip(groups, ages, strict=True)
        ]
        rows, counts = training_rows(fresh, self.credit)
        stale = sum(age > self.max_staleness for age in all_ages)
        if not any(any(row.mask) for row in rows):
            raise PhaseError(
                f"round {number}: no conversation to learn from; of {sum(sizes)}, {stale} were sampled by adapters "
                f"more than {self.max_staleness} rounds old, {counts['failed']} more failed, and "
                f"{counts['lone_groups']} of {counts['groups']} groups have fewer than two left"
            )
        return rows, _metrics(rows, counts) | {
            "rollouts/stale": float(stale),
            "rollouts/staleness_mean": sum(all_ages) / len(all_ages),
            "rollouts/staleness_max": float(max(all_ages)),
        }


def trl_batch(
    rows: Sequence[TrainingRow], groups: Sequence[ConversationGroup], shape: tuple[int, int], filler: int
) -> dict[str, list[Any]]:
    """Returns what TRL's ``rollout_func`` returns, for all processes: complete groups, one after the other.

    Args:
        rows: from ``training_rows``.
        groups: the groups, in the order of the batch.
        shape: (groups, conversations per group).
        filler: the token id used where a conversation is missing.
    """
    places: list[TrainingRow | None] = []
    for group in groups:
        own = [row for row in rows if row.group_id == group.group_id]
        places += [*own, *[None] * (shape[1] - len(own))]
    places += [None] * (shape[0] * shape[1] - len(places))
    filled = [row if row is not None and row.completion_ids else None for row in places]
    return {
        "prompt_ids": [list(row.prompt_ids) if row else [filler] for row in filled],
        "completion_ids": [list(row.completion_ids) if row else [filler] for row in filled],
        "logprobs": [list(row.logprobs) if row else [0.0] for row in filled],
        "env_mask": [list(row.mask) if row else [0] for row in filled],
        "token_advantages": [list(row.advantages) if row else [0.0] for row in filled],
        "conversation_return": [row.reward if row else None for row in places],
    }


def conversation_return(
    completions: Sequence[Any], conversation_return: Sequence[float | None], **_: Any
) -> list[float | None]:
    """Returns each conversation's sum of rewards, as a TRL reward function; None where a conversation is missing."""
    return list(conversation_return)


def _digest(trajectory: Any) -> str | None:
    return trajectory.adapter.digest if trajectory.adapter else None


def _only(group: ConversationGroup, chosen: Sequence[bool]) -> ConversationGroup:
    def pick(values: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(value for value, is_chosen in zip(values, chosen, strict=True) if is_chosen)

    weights = pick(group.turn_weights) if group.turn_weights else ()
    return group.model_copy(update={"trajectories": pick(group.trajectories), "turn_weights": weights})


def _metrics(rows: Sequence[TrainingRow], counts: dict[str, int]) -> dict[str, float]:
    parts = sum_parts(row.reward_parts for row in rows)
    return {
        **{f"rollouts/{name}": float(count) for name, count in counts.items()},
        **{f"reward_parts/{name}": value / len(rows) for name, value in sorted(parts.items())},
        "rollouts/turns_mean": counts["own_turns"] / len(rows),
        "rollouts/trained_tokens": float(sum(sum(row.mask) for row in rows)),
        "rollouts/read_tokens": float(sum(len(row.prompt_ids) + len(row.completion_ids) for row in rows)),
    }
