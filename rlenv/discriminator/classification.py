"""Scores of real-versus-simulated classification, turn by turn: accuracy, F1 and MCC (Section 4.3.3, Table 2).

A session is predicted real at turn t if its log-odds there are above 0. The positive class of F1 is *real*. A score
that is undefined is None and never 0: all scores at a turn that no session reaches, F1 if no session is real or
predicted real, MCC if there is only one class. Independent of how the log-odds were made.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from rlenv.core.types import Record

TABLE_2_TURNS = (1, 5, 10, 25)


class Scores(Record):
    """One cell of Table 2, as fractions, with the counts behind it."""

    num: int
    """Number of predictions: of sessions that have this turn, or of all turns of all sessions."""
    num_real: int
    accuracy: float | None
    f1: float | None
    mcc: float | None


class TurnTable(Record):
    """One row of Table 2."""

    turns: dict[int, Scores]
    """Scores by turn, from 1."""
    overall: Scores
    """Over all turns of all sessions."""
    session: Scores
    """At each session's last turn."""


def classification_scores(real: Sequence[bool], predicted_real: Sequence[bool]) -> Scores:
    """Returns accuracy, F1 and MCC of the predictions.

    >>> classification_scores([True, True, False, False], [True, False, False, False]).accuracy
    0.75
    >>> classification_scores([], []).accuracy is None
    True
    """
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    if len(real) != len(predicted_real):
        raise ValueError(f"expected one prediction per session, got {len(predicted_real)} for {len(real)} sessions")
    any_real, both = any(real) or any(predicted_real), len(set(real)) == 2
    return Scores(
        num=len(real),
        num_real=sum(real),
        accuracy=float(accuracy_score(real, predicted_real)) if real else None,
        f1=float(f1_score(real, predicted_real)) if any_real else None,
        mcc=float(matthews_corrcoef(real, predicted_real)) if both else None,
    )


def turn_table(
    real: Sequence[bool], log_odds: Sequence[Sequence[float]], turns: Sequence[int] = TABLE_2_TURNS
) -> TurnTable:
    """Returns the scores at each of ``turns``, over all turns, and at the last turn of each session.

    Args:
        real: [n] which sessions are real.
        log_odds: [n][T + 1] of each session; index 0 is the prior and is not scored.
        turns: turns to score, from 1; a session counts only at turns that it has.

    Raises:
        ValueError: a turn is below 1, or a log-odds is NaN.
    """
    if any(turn < 1 for turn in turns):
        raise ValueError(f"turns count from 1, got {min(turns)}")
    for i, values in enumerate(log_odds):
        if any(math.isnan(v) for v in values):
            raise ValueError(f"log_odds[{i}] has NaN; a session without a score must be left out, not scored 0")
    predicted = [[value > 0 for value in values[1:]] for values in log_odds]
    labelled = list(zip(real, predicted, strict=True))

    def at(turn: int) -> Scores:
        pairs = [(r, p[turn - 1]) for r, p in labelled if len(p) >= turn]
        return classification_scores([r for r, _ in pairs], [p for _, p in pairs])

    last = [(r, p[-1]) for r, p in labelled if p]
    return TurnTable(
        turns={turn: at(turn) for turn in turns},
        overall=classification_scores([r for r, p in labelled for _ in p], [d for _, p in labelled for d in p]),
        session=classification_scores([r for r, _ in last], [p for _, p in last]),
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
