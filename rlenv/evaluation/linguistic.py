"""Table 1: lexical diversity by session, then mean, median and standard deviation over sessions, with intervals.

Words, entropy's base and bigrams are those of ``rlenv.linguistics``; the further figures those of ``lexical``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from rlenv.controls import cut_after_turn
from rlenv.evaluation.intervals import Estimate, estimate
from rlenv.evaluation.lexical import self_bleu, session_figures
from rlenv.types import Record, Session

TABLE_1 = ("entropy", "ttr", "bigram")


class Spread(Record):
    """One figure over sessions."""

    mean: Estimate
    median: float | None
    sd: float | None
    """Over sessions (n - 1); None with fewer than two."""


class LinguisticRow(Record):
    """One row of Table 1 and what is measured beyond it."""

    name: str
    num_sessions: int
    features: dict[str, Spread]
    self_bleu: Estimate


class LinguisticTable(Record):
    """Table 1."""

    real: LinguisticRow
    rows: tuple[LinguisticRow, ...]
    max_turns: int | None
    """All sessions were cut after this user message; entropy, TTR and the like depend on length."""
    closest: dict[str, str]
    """By figure, the simulator whose mean is closest to the real one (the paper's bold)."""


def linguistic_row(
    name: str,
    sessions: Sequence[Session],
    *,
    max_turns: int | None = None,
    num_references: int = 10,
    num_scored: int = 100,
    seed: int = 0,
) -> LinguisticRow:
    """Returns one row; a figure that no session has is None.

    Args:
        name: the row's.
        sessions: one simulator's.
        max_turns: cut after this user message; None leaves sessions whole.
        num_references: other sessions that each is compared with in self-BLEU.
        num_scored: sessions that self-BLEU scores, at most.
        seed: of intervals and draws.
    """
    cut = [cut_after_turn(s, max_turns) for s in sessions] if max_turns else list(sessions)
    rows = [session_figures(s) for s in cut]
    names = rows[0] if rows else session_figures(Session(session_id="none"))
    return LinguisticRow(
        name=name,
        num_sessions=len(cut),
        features={key: _spread([row[key] for row in rows], seed) for key in names},
        self_bleu=self_bleu(cut, num_references=num_references, num_scored=num_scored, seed=seed),
    )


def closest(real: LinguisticRow, rows: Sequence[LinguisticRow]) -> dict[str, str]:
    """Returns for each figure the name of the row whose mean is nearest to the real mean."""
    found = {}
    for key, spread in real.features.items():
        target = spread.mean.value
        known = {r.name: v for r in rows if (v := r.features[key].mean.value) is not None}
        if target is not None and known:
            found[key] = min(known, key=lambda name: abs(known[name] - target))
    return found


def _spread(values: Sequence[float], seed: int) -> Spread:
    array = np.asarray(values, np.float64)
    array = array[np.isfinite(array)]
    return Spread(
        mean=estimate(values, seed=seed),
        median=float(np.median(array)) if array.size else None,
        sd=float(array.std(ddof=1)) if array.size > 1 else None,
    )
