"""Rates of categories: user actions (Section 4.3.2, Figure 5) and chatbot issues (Figures 2 and 4) per message.

A message whose labels are None was not annotated and does not count; one with an empty tuple was annotated with none.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from rlenv.core.types import Message, Record, Role, Session
from rlenv.evaluation.statistics.intervals import Estimate, estimate_ratio, ratio_standard_error


class Rate(Record):
    """Share of the annotated messages that have a category."""

    count: int
    num_messages: int
    rate: float | None
    standard_error: float | None
    """By session: of the ratio of two sums over sessions, not of independent messages."""


class CategoryRates(Record):
    """The rates of all categories of one kind, in the taxonomy's order; they need not sum to 1."""

    rates: dict[str, Rate]
    num_sessions: int
    num_messages: int


class IssueRate(Record):
    """Share of the annotated chatbot messages with at least one issue (4.3.2)."""

    estimate: Estimate
    standard_error: float | None
    """By session, as in ``Rate``."""
    num_issues: int
    """Messages with an issue."""
    num_messages: int


def action_rates(sessions: Sequence[Session], categories: Sequence[str]) -> CategoryRates:
    """Returns the rate of each user action among the annotated user messages (Figure 5).

    Other actions are ignored (``rlenv.data.labels.foreign_labels`` counts them).
    """
    return _category_rates(sessions, "user", categories)


def issue_category_rates(sessions: Sequence[Session], categories: Sequence[str]) -> CategoryRates:
    """Returns the rate of each issue among the annotated chatbot messages.

    Other issues are ignored (``rlenv.data.labels.foreign_labels`` counts them).
    """
    return _category_rates(sessions, "assistant", categories)


def issue_rate(sessions: Sequence[Session], seed: int = 0) -> IssueRate:
    """Returns the share of annotated chatbot messages with an issue, its interval resampling sessions."""
    with_issue, annotated = issue_counts(sessions)
    return IssueRate(
        estimate=estimate_ratio(with_issue, annotated, seed=seed),
        standard_error=ratio_standard_error(with_issue, annotated),
        num_issues=sum(with_issue),
        num_messages=sum(annotated),
    )


def issue_counts(sessions: Sequence[Session]) -> tuple[list[int], list[int]]:
    """Returns for each session its chatbot messages with an issue, and its annotated chatbot messages."""
    with_issue, annotated = [], []
    for session in sessions:
        labels = list(_annotated(session, "assistant"))
        annotated.append(len(labels))
        with_issue.append(sum(bool(found) for found in labels))
    return with_issue, annotated


def category_counts(sessions: Sequence[Session], categories: Sequence[str]) -> dict[str, int]:
    """Returns the number of annotated chatbot messages with each issue: the counts for Eq. 6's distributions."""
    return {name: rate.count for name, rate in issue_category_rates(sessions, categories).rates.items()}


def _category_rates(sessions: Sequence[Session], role: Role, categories: Sequence[str]) -> CategoryRates:
    position = {name: i for i, name in enumerate(categories)}
    counts = np.zeros((len(sessions), len(categories)))
    messages = np.zeros(len(sessions))
    for row, session in enumerate(sessions):
        for labels in _annotated(session, role):
            messages[row] += 1
            for label in position.keys() & labels:
                counts[row, position[label]] += 1
    total = int(messages.sum())
    rates = {
        name: Rate(
            count=int(counts[:, i].sum()),
            num_messages=total,
            rate=float(counts[:, i].sum() / total) if total else None,
            standard_error=ratio_standard_error(counts[:, i], messages),
        )
        for name, i in position.items()
    }
    return CategoryRates(rates=rates, num_sessions=int((messages > 0).sum()), num_messages=total)


def _annotated(session: Session, role: Role) -> Iterable[tuple[str, ...]]:
    for message in session.messages:
        labels = _labels(message, role)
        if message.role == role and labels is not None:
            yield labels


def _labels(message: Message, role: Role) -> tuple[str, ...] | None:
    return message.actions if role == "user" else message.issues
