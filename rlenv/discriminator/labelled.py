"""Sessions labelled real or simulated, and their split by context into training and validation.

A simulated session has the ``context_id`` of the real session whose context it was simulated from. A discriminator (or
referee) that saw one of the two in training could recognise the other by its topic, so the two sides share no context.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from rlenv.core.errors import ConfigError
from rlenv.core.seeds import derive_seed
from rlenv.core.types import Record, Session


class LabelledSession(Record):
    """One session, whether it is real, and its context's id."""

    context_id: str
    real: bool
    session: Session


class ScoredSession(Record):
    """The log-odds of one validation session, computed right after training."""

    session_id: str
    context_id: str
    real: bool
    log_odds: tuple[float, ...]
    """[T + 1], index 0 is the prior; shorter if the session was cut at ``max_tokens``."""
    num_turns: int


def split_by_context(
    items: Sequence[LabelledSession], num_train: int, num_validation: int, seed: int = 0
) -> tuple[list[LabelledSession], list[LabelledSession]]:
    """Returns (training, validation) sessions with no context in common.

    All sessions of a context go to the same side. The order of contexts depends only on ``seed`` and the set of
    contexts. A context whose sessions no longer fit is left out, so a side may be a few sessions short of its number
    but never above it.

    Args:
        items: real and simulated sessions, in any order.
        num_train: training sessions, both classes together (Section 4.3.3: 1,600).
        num_validation: validation sessions, both classes together (Section 4.3.3: 400).
        seed: seed of the split.

    Raises:
        ConfigError: there are too few sessions.
    """
    if num_train + num_validation > len(items):
        raise ConfigError(
            f"discriminator: expected {num_train} training and {num_validation} validation sessions, but "
            f"there are {len(items)}; simulate more, or lower num_train_sessions and num_validation_sessions"
        )
    groups: dict[str, list[LabelledSession]] = {}
    for item in items:
        groups.setdefault(item.context_id, []).append(item)
    contexts = sorted(groups)
    random.Random(derive_seed(seed, "split_by_context")).shuffle(contexts)
    train: list[LabelledSession] = []
    validation: list[LabelledSession] = []
    for context in contexts:
        group = groups[context]
        if len(train) + len(group) <= num_train:
            train.extend(group)
        elif len(validation) + len(group) <= num_validation:
            validation.extend(group)
    return train, validation
