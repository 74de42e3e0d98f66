"""Failure sensitivity: worked by hand, against scipy, and of users who hear and who do not."""

from __future__ import annotations

import pytest
from scipy import stats

from launch.reports.captions import captions
from launch.reports.sheets import sheets
from rlenv.core.types import Message, Session
from rlenv.evaluation.sensitivity import sensitivity_row
from rlenv.evaluation.subjects import Simulator
from rlenv.evaluation.suite import EvaluationConfig, evaluate
from rlenv.population.corpus import generate_sessions

OBJECTS, NOT = ("asks_for_clarity",), ()


def session(name: str, *pairs) -> Session:
    """(issues, actions of the answer) of each exchange."""
    messages = []
    for issues, actions in pairs:
        messages.append(Message(role="assistant", content="c", issues=issues))
        messages.append(Message(role="user", content="u", actions=actions))
    return Session(session_id=name, user_id=name, chatbot="one", messages=tuple(messages))


def test_two_sessions_by_hand():
    sessions = [
        session("a", (("blank_message",), OBJECTS), ((), NOT), (None, OBJECTS), (("blank_message",), None)),
        session("b", (("blank_message",), NOT), ((), NOT), ((), OBJECTS)),
    ]
    row = sensitivity_row("it", sessions, OBJECTS, 0)
    assert (row.num_after_issue, row.num_after_other) == (2, 3)
    assert row.after_issue.value == pytest.approx(1 / 2) and row.after_other.value == pytest.approx(1 / 3)
    assert row.difference.value == pytest.approx(1 / 6)


def test_opening_and_last_messages_are_not_answers():
    messages = (Message(role="user", content="u", actions=OBJECTS), Message(role="assistant", content="c", issues=()))
    alone = Session(session_id="s", user_id="s", messages=messages)
    row = sensitivity_row("it", [alone], OBJECTS, 0)
    assert row.num_after_issue == row.num_after_other == 0
    assert row.after_issue.value is row.after_other.value is row.difference.value is None


def test_population_users_react_to_failures_and_users_with_shuffled_answers_do_not():
    real = generate_sessions(120, 1, 3, chatbots=["scattered", "stoic", "echo"])
    answers = [m.actions for s in real for m in s.messages if m.role == "user"]
    shifted = iter(answers[7:] + answers[:7])
    deaf = tuple(
        s.model_copy(update={"messages": tuple(
            m.model_copy(update={"actions": next(shifted)}) if m.role == "user" else m for m in s.messages)})
        for s in real
    )  # fmt: skip
    quick = EvaluationConfig(self_bleu_references=2, self_bleu_sessions=10)
    found = evaluate([Simulator(name="deaf", sessions=deaf)], real, quick)
    real_row, (simulated,) = found.sensitivity.real, found.sensitivity.rows
    assert real_row.difference.low > 0.2 and simulated.difference.low < 0.05
    table = [
        [round(share * n), n - round(share * n)]
        for share, n in (
            (real_row.after_issue.value, real_row.num_after_issue),
            (real_row.after_other.value, real_row.num_after_other),
        )
    ]
    assert stats.chi2_contingency(table).pvalue < 1e-6
    assert "deaf is closest" in captions(found)["failure_sensitivity"]
    sheet = next(sheet for sheet in sheets(found) if sheet.name == "failure_sensitivity")
    assert [row[0] for row in sheet.rows] == ["real", "deaf"] and sheet.rows[0][5] == real_row.difference


def test_unlabelled_sessions_leave_gaps():
    real = [session(str(i), (None, None)) for i in range(3)]
    found = evaluate([Simulator(name="x", sessions=tuple(real))], real, EvaluationConfig(self_bleu_references=2))
    assert found.sensitivity.real.difference.value is None
    assert "There are no figures" in captions(found)["failure_sensitivity"]
