"""Failure sensitivity: how much more often users object after a chatbot message with an issue than after another.

A simulator may object as often as real users do, but not to failures; rates (Figure 5) do not show that.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from rlenv.core.taxonomy import Taxonomy
from rlenv.core.types import Record, Session
from rlenv.evaluation.statistics.intervals import Estimate, estimate_ratio, estimate_ratio_difference
from rlenv.evaluation.subjects import REAL, Simulator

OBJECTIONS = "bad"
"""The taxonomy's group of actions by which users object (Appendix D): ask for clarity, disagree, show frustration."""


class SensitivityRow(Record):
    """Shares of user messages with an objection, by the kind of message that they answer."""

    name: str
    after_issue: Estimate
    """Answers to a chatbot message with an issue."""
    after_other: Estimate
    """Answers to one without."""
    difference: Estimate
    """The first minus the second; its interval resamples sessions. Near 0, users do not react to failures."""
    num_after_issue: int
    num_after_other: int


class SensitivityTable(Record):
    """Real sessions and all simulators."""

    real: SensitivityRow
    rows: tuple[SensitivityRow, ...]


def sensitivity_table(
    simulators: Sequence[Simulator], real: Sequence[Session], taxonomy: Taxonomy, seed: int = 0
) -> SensitivityTable:
    """Returns the failure sensitivity of all sides; None where labels or the taxonomy's group are missing."""
    objections = {action.id for action in taxonomy.actions if action.group == OBJECTIONS}
    real_row, *rows = (
        sensitivity_row(name, sessions, objections, seed)
        for name, sessions in [(REAL, tuple(real)), *((s.name, s.sessions) for s in simulators)]
    )
    return SensitivityTable(real=real_row, rows=tuple(rows))


def sensitivity_row(name: str, sessions: Sequence[Session], objections: Collection[str], seed: int) -> SensitivityRow:
    """Returns the row of some sessions.

    Args:
        name: the row's name.
        sessions: the sessions; only user messages directly after a chatbot message count, both annotated.
        objections: the actions that count as objections.
        seed: seed of the intervals.
    """
    counts = np.zeros((len(sessions), 2, 2), dtype=np.int64)  # [session, after an issue, (objections, answers)]
    for row, session in enumerate(sessions if objections else ()):
        for message, answer in zip(session.messages, session.messages[1:], strict=False):
            if message.role == "assistant" and answer.role == "user" and None not in (message.issues, answer.actions):
                objects = any(action in objections for action in answer.actions or ())
                counts[row, int(bool(message.issues))] += (objects, 1)
    other, issue = ((counts[:, after, 0].tolist(), counts[:, after, 1].tolist()) for after in (0, 1))
    return SensitivityRow(
        name=name,
        after_issue=estimate_ratio(*issue, seed=seed),
        after_other=estimate_ratio(*other, seed=seed),
        difference=estimate_ratio_difference(other, issue, seed=seed),
        num_after_issue=sum(issue[1]),
        num_after_other=sum(other[1]),
    )
