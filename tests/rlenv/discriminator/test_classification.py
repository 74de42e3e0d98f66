"""Accuracy, F1 and MCC against scikit-learn, and the cases without a score."""

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from rlenv.discriminator.classification import classification_scores, flat_metrics, turn_table


def random_sessions(seed: int, n: int = 60) -> tuple[list[bool], list[list[float]]]:
    rng = np.random.default_rng(seed)
    real = [bool(x) for x in rng.random(n) < 0.5]
    return real, [[0.0, *rng.normal(0.5 if r else -0.5, 2, rng.integers(1, 30))] for r in real]


@pytest.mark.parametrize("seed", range(5))
def test_scores_equal_scikit_learns(seed: int) -> None:
    real, log_odds = random_sessions(seed)
    table = turn_table(real, log_odds)
    for turn in (1, 5, 10, 25):
        pairs = [(r, v[turn] > 0) for r, v in zip(real, log_odds, strict=True) if len(v) > turn]
        truth, predicted = [r for r, _ in pairs], [c for _, c in pairs]
        scores = table.turns[turn]
        assert scores.num == len(truth) and scores.num_real == sum(truth)
        assert scores.accuracy == pytest.approx(accuracy_score(truth, predicted))
        assert scores.f1 == pytest.approx(f1_score(truth, predicted))
        assert scores.mcc == pytest.approx(matthews_corrcoef(truth, predicted))
    everywhere = [(r, v > 0) for r, values in zip(real, log_odds, strict=True) for v in values[1:]]
    assert table.overall.accuracy == pytest.approx(np.mean([r == c for r, c in everywhere]))
    assert table.overall.mcc == pytest.approx(matthews_corrcoef(*zip(*everywhere, strict=True)))
    assert table.session.accuracy == pytest.approx(
        accuracy_score(real, [v[-1] > 0 for v in log_odds]),
    )


def test_a_table_worked_by_hand() -> None:
    table = turn_table([True, False, True], [[0, 1, -1], [0, 2], [0, 3, 4]], turns=(1, 2))
    first = table.turns[1]
    assert (first.num, first.num_real) == (3, 2)
    assert first.accuracy == pytest.approx(2 / 3)
    assert first.f1 == pytest.approx(4 / 5)  # 2 tp, 1 fp
    assert first.mcc == 0.0  # all were called real
    assert table.overall.accuracy == pytest.approx(3 / 5)
    assert table.session.accuracy == pytest.approx(1 / 3)


def test_a_turn_that_no_session_reaches_has_no_score() -> None:
    table = turn_table([True, False], [[0, 1], [0, -1]])
    assert table.turns[25].num == 0
    assert (table.turns[25].accuracy, table.turns[25].f1, table.turns[25].mcc) == (None, None, None)
    assert flat_metrics(table)["disc/accuracy_turn_25"] is None
    assert flat_metrics(table)["disc/accuracy_turn_01"] == 1.0


def test_one_class_alone_has_no_mcc_and_nothing_real_has_no_f1() -> None:
    assert classification_scores([True, True], [True, False]).mcc is None
    assert classification_scores([False, False], [False, False]).f1 is None
    assert classification_scores([False, False], [False, True]).f1 == 0.0


def test_a_missing_score_is_an_error_and_not_a_zero() -> None:
    with pytest.raises(ValueError, match=r"log_odds\[1\]"):
        turn_table([True, False], [[0, 1], [0, float("nan")]])
    with pytest.raises(ValueError, match="from 1"):
        turn_table([True], [[0, 1]], turns=(0,))
