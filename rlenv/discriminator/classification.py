"""How well real is told from simulated, turn by turn: accuracy, F1 and MCC (4.3.3, Table 2).

A session is called real at turn t where its log-odds there are above 0. F1's positive class is *real*. What cannot be
computed is None and never 0: a turn that no session reaches, F1 where nothing real is there or called, MCC where only
one class is there. Knows nothing of how the log-odds were made.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from rlenv.core.types import Record

TABLE_2_TURNS = (1, 5, 10, 25)


class Scores(Record):
    """One cell of Table 2, as fractions, with the counts behind it."""

    num: int
    """Decisions: sessions that have this turn, or all turns of all sessions."""
    num_real: int
    accuracy: float | None
    f1: float | None
    mcc: float | None


class TurnTable(Record):
    """One row of Table 2."""

    turns: dict[int, Scores]
    """By turn, from 1."""
    overall: Scores
    """Over all turns of all sessions."""
    session: Scores
    """At each session's last turn."""


def classification_scores(real: Sequence[bool], called_real: Sequence[bool]) -> Scores:
    """Returns accuracy, F1 and MCC of decisions.

    >>> classification_scores([True, True, False, False], [True, False, False, False]).accuracy
    0.75
    >>> classification_scores([], []).accuracy is None
    True
    """
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    if len(real) != len(called_real):
        raise ValueError(f"expected a decision for each session, got {len(called_real)} for {len(real)}")
    any_real, both = any(real) or any(called_real), len(set(real)) == 2
    return Scores(
        num=len(real),
        num_real=sum(real),
        accuracy=float(accuracy_score(real, called_real)) if real else None,
        f1=float(f1_score(real, called_real)) if any_real else None,
        mcc=float(matthews_corrcoef(real, called_real)) if both else None,
    )


def turn_table(
    real: Sequence[bool], log_odds: Sequence[Sequence[float]], turns: Sequence[int] = TABLE_2_TURNS
) -> TurnTable:
    """Returns the scores at each of ``turns``, over all turns, and at the last turn of each session.

    Args:
        real: [n] which sessions are real.
        log_odds: [n][T + 1] each session's, index 0 the prior, which no score reads.
        turns: from 1; a session counts at a turn that it has.

    Raises:
        ValueError: a turn below 1, or a log-odds that is no number.
    """
    if any(turn < 1 for turn in turns):
        raise ValueError(f"turns count from 1, got {min(turns)}")
    for i, values in enumerate(log_odds):
        if any(math.isnan(v) for v in values):
            raise ValueError(f"log_odds[{i}] holds NaN; a session without a score must be left out, not scored 0")
    called = [[value > 0 for value in values[1:]] for values in log_odds]
    labelled = list(zip(real, called, strict=True))

    def at(turn: int) -> Scores:
        there = [(r, c[turn - 1]) for r, c in labelled if len(c) >= turn]
        return classification_scores([r for r, _ in there], [c for _, c in there])

    ended = [(r, c[-1]) for r, c in labelled if c]
    return TurnTable(
        turns={turn: at(turn) for turn in turns},
        overall=classification_scores([r for r, c in labelled for _ in c], [d for _, c in labelled for d in c]),
        session=classification_scores([r for r, _ in ended], [c for _, c in ended]),
    )


def flat_metrics(table: TurnTable, prefix: str = "disc") -> dict[str, float | int | None]:
    """Returns the table as metric keys: ``disc/accuracy_turn_05``, ``disc/f1_overall``, ``disc/num_session`` ..."""
    cells = {f"turn_{turn:02d}": scores for turn, scores in table.turns.items()}
    cells |= {"overall": table.overall, "session": table.session}
    return {
        f"{prefix}/{name}_{cell}": getattr(scores, name)
        for cell, scores in cells.items()
        for name in ("accuracy", "f1", "mcc", "num")
    }
