"""Issue rates of chatbots with simulated and with real users, and the divergence of categories (Figures 2, 4, Eq. 6).

For empty categories see ``divergence.kl_divergence``; each row names the categories that only one side has.
"""

from __future__ import annotations

from collections.abc import Sequence

from rlenv.core.taxonomy import Taxonomy
from rlenv.core.types import Record, Session
from rlenv.evaluation.statistics.divergence import UNIFORM_SHARE, Divergence, category_deltas, kl_divergence
from rlenv.evaluation.statistics.rates import IssueRate, category_counts, issue_rate
from rlenv.evaluation.subjects import REAL, Simulator


class IssueRow(Record):
    """One simulator's issues."""

    name: str
    rate: IssueRate
    counts: dict[str, int]
    """Chatbot messages with each category; a message may have several."""
    divergence: Divergence | None
    """From the real distribution; None for the real sessions."""
    deltas: dict[str, float]
    """Simulated share minus real share (Figure 4), largest first; {} where one side has no issue."""


class IssueTable(Record):
    """Figures 2 and 4, and the KL column of Table 3."""

    real: IssueRow
    rows: tuple[IssueRow, ...]
    floor: IssueRow | None
    """One half of the real sessions against the other: what a perfect simulator would score on half the data."""
    uniform_share: float
    unseen: tuple[str, ...]
    """Categories that nobody shows."""
    notes: tuple[str, ...]


def issue_table(
    simulators: Sequence[Simulator],
    real: Sequence[Session],
    real_halves: tuple[Sequence[Session], Sequence[Session]] | None,
    taxonomy: Taxonomy,
    seed: int = 0,
) -> IssueTable:
    """Returns the issue rates and category distributions of all simulators.

    Issues outside the taxonomy count in the rates, and in no category.
    """
    categories = taxonomy.issue_ids()

    def row(name: str, sessions: Sequence[Session], target: dict[str, int] | None) -> IssueRow:
        counts = category_counts(sessions, categories)
        return IssueRow(
            name=name,
            rate=issue_rate(sessions, seed),
            counts=counts,
            divergence=None if target is None else kl_divergence(target, counts),
            deltas={} if target is None else category_deltas(target, counts),
        )

    real_row = row(REAL, real, None)
    rows = tuple(row(s.name, s.sessions, real_row.counts) for s in simulators)
    floor = None
    if real_halves:
        floor = row("real, one half against the other", real_halves[1], category_counts(real_halves[0], categories))
    return IssueTable(
        real=real_row,
        rows=rows,
        floor=floor,
        uniform_share=UNIFORM_SHARE,
        unseen=tuple(c for c in categories if not any(r.counts[c] for r in (real_row, *rows))),
        notes=tuple(note for r in (real_row, *rows) for note in _notes(r)),
    )


def _notes(row: IssueRow) -> list[str]:
    if not row.rate.num_messages:
        return [f"{row.name}: no chatbot message is annotated with issues; rlenv annotate labels them"]
    if not row.rate.num_issues:
        return [f"{row.name}: none of {row.rate.num_messages} annotated chatbot messages has an issue: no distribution"]
    return []
