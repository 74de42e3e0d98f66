"""Rates of user actions, and the distance of simulated from real users (Table 4, Figure 5, Eq. 7)."""

from __future__ import annotations

from collections.abc import Sequence

from rlenv.core.taxonomy import Taxonomy
from rlenv.core.types import Record, Session
from rlenv.evaluation.statistics.divergence import ActionDistance, action_distance
from rlenv.evaluation.statistics.rates import CategoryRates, action_rates
from rlenv.evaluation.subjects import REAL, Simulator

TOTAL = "total"


class ActionRow(Record):
    """One row of Table 4 with the rates behind it."""

    name: str
    rates: CategoryRates
    distances: dict[str, ActionDistance]
    """Eq. 7 against the real rates, over all actions ("total") and over each group; {} for the real sessions."""


class ActionTable(Record):
    """Table 4 and the data of Figure 5."""

    groups: dict[str, tuple[str, ...]]
    """Each group's actions, in the taxonomy's order."""
    real: ActionRow
    rows: tuple[ActionRow, ...]
    floor: ActionRow | None
    """One half of the real sessions against the other: what a perfect simulator would score on half the data."""
    unseen: tuple[str, ...]
    """Actions that nobody shows, real or simulated: their rate of 0 says little."""
    notes: tuple[str, ...]


def action_table(
    simulators: Sequence[Simulator],
    real: Sequence[Session],
    real_halves: tuple[Sequence[Session], Sequence[Session]] | None,
    taxonomy: Taxonomy,
) -> ActionTable:
    """Returns the rates and distances of all simulators."""
    groups: dict[str, tuple[str, ...]] = {}
    for action in taxonomy.actions:
        groups[action.group] = (*groups.get(action.group, ()), action.id)
    categories = taxonomy.action_ids()
    real_rates = action_rates(real, categories)

    def row(name: str, sessions: Sequence[Session], target: CategoryRates) -> ActionRow:
        rates = action_rates(sessions, categories)
        distances = {TOTAL: action_distance(target, rates, categories)}
        distances |= {group: action_distance(target, rates, ids) for group, ids in groups.items()}
        return ActionRow(name=name, rates=rates, distances=distances)

    rows = tuple(row(s.name, s.sessions, real_rates) for s in simulators)
    return ActionTable(
        groups=groups,
        real=ActionRow(name=REAL, rates=real_rates, distances={}),
        rows=rows,
        floor=row("real, one half against the other", real_halves[1], action_rates(real_halves[0], categories))
        if real_halves
        else None,
        unseen=tuple(
            c for c in categories if not any(r.rates[c].count for r in (real_rates, *(x.rates for x in rows)))
        ),
        notes=tuple(
            f"{name}: no user message is annotated with actions; rlenv annotate labels them"
            for name, rates in ((REAL, real_rates), *((r.name, r.rates) for r in rows))
            if not rates.num_messages
        ),
    )
