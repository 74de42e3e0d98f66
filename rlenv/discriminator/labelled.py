"""Sessions labelled real or simulated, and their split: a context never stands on both sides.

A simulated session shares its ``context_id`` with the real session whose context it was simulated from. A discriminator
(or referee) that saw one of the two in training could recognise the other by its topic, so the split is by context.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from rlenv.core.errors import ConfigError
from rlenv.core.seeds import derive_seed
from rlenv.core.types import Record, Session


class LabelledSession(Record):
    """One session and where it comes from."""

    context_id: str
    real: bool
    session: Session


class ScoredSession(Record):
    """One validation session's log-odds, as the discriminator was just after training."""

    session_id: str
    context_id: str
    real: bool
    log_odds: tuple[float, ...]
    """[T + 1], index 0 the prior; shorter than the session where it was cut at ``max_tokens``."""
    num_turns: int


def split_by_context(
    items: Sequence[LabelledSession], num_train: int, num_validation: int, seed: int = 0
) -> tuple[list[LabelledSession], list[LabelledSession]]:
    """Returns (training, validation) sessions with no context in common.

    Contexts are drawn whole, in an order that depends on ``seed`` and the set of contexts alone, until a side is full;
    a context whose sessions no longer fit a side is left out, so a side may stay a few sessions short of its number,
    never above it.

    Args:
        items: real and simulated, in any order.
        num_train: sessions, both classes together (4.3.3: 1,600).
        num_validation: sessions, both classes together (4.3.3: 400).
        seed: of the draw.

    Raises:
        ConfigError: there are too few sessions.
    """
    if num_train + num_validation > len(items):
        raise ConfigError(
            f"discriminator: {num_train} training and {num_validation} validation sessions were asked for, "
            f"there are {len(items)}; simulate more or lower num_train_sessions and num_validation_sessions"
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
