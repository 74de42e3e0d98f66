"""The tables that a study adds, checked by hand or on evaluations of small sets of sessions."""

from __future__ import annotations

import pytest

from launch.study.config import AGGREGATE, GoalsConfig
from launch.study.phases import first_of_each_chatbot
from launch.study.tables import gap_closed, goals, like_with_like_sheet, sizes_sheet
from rlenv.discriminator.controls import shuffle_words_within_user
from rlenv.evaluation.subjects import Simulator, aggregate
from rlenv.evaluation.suite import EvaluationConfig, evaluate
from rlenv.population.corpus import generate_sessions

CHATBOTS = ("steady", "echo", "scattered", "stoic")


@pytest.fixture(scope="module")
def sets():
    return [generate_sessions(24, 1, seed, chatbots=CHATBOTS) for seed in (1, 2, 3)]


@pytest.fixture(scope="module")
def evaluation(sets):
    """An evaluation of two simulators: base repeats one message, it1 is other users of the same population."""
    real, one, two = sets
    stuck = [
        s.model_copy(update={"messages": tuple(
            m.model_copy(update={"content": "I am so tired"}) if m.role == "user" else m for m in s.messages)})
        for s in one
    ]  # fmt: skip
    own = {"base": Simulator(name="base", sessions=stuck), "it1": Simulator(name="it1", sessions=two)}
    return evaluate([*own.values(), aggregate(AGGREGATE, own, own)], real, EvaluationConfig())


def test_the_gap_closed_is_a_share_of_the_first_distance():
    assert gap_closed(6.4, 6.0, 6.4) == 1.0
    assert gap_closed(6.4, 6.0, 6.3) == pytest.approx(0.75)
    assert gap_closed(6.4, 6.0, 6.6) == pytest.approx(0.5)  # overshooting the real figure is a distance too
    assert gap_closed(6.4, 6.0, 5.8) == pytest.approx(-0.5)
    assert gap_closed(6.4, 6.4, 6.0) is None


def test_a_goal_is_met_on_its_side_of_the_target_and_a_missing_value_misses_it(evaluation):
    met = {g.name: g for g in goals(evaluation, GoalsConfig(pearson_r=-1.0, kl=100.0), "base", "it1")}
    assert met["Pearson r over the chatbots, it1"].met and met[f"KL of issue categories, {AGGREGATE}"].met
    strict = {g.name: g for g in goals(evaluation, GoalsConfig(pearson_r=1.01, kl=0.0), "base", "it1")}
    assert not strict["Pearson r over the chatbots, it1"].met and not strict["KL of issue categories, it1"].met
    accuracy = met["discriminator accuracy against it1"]
    assert accuracy.value is None and not accuracy.met
    entropy = met["gap closed: word entropy"]
    assert entropy.met and entropy.value > 0.8 and "it1" in entropy.said


def test_like_with_like_has_the_judged_real_sessions_first(evaluation, sets):
    real = sets[0]
    judged_real = evaluate([Simulator(name="real, judged", sessions=real)], real)
    sheet = like_with_like_sheet(evaluation, evaluation, judged_real)
    rows = [dict(zip(sheet.columns, row, strict=True)) for row in sheet.rows]
    assert [row["simulator"] for row in rows] == ["real, judged", "base", "it1", AGGREGATE]
    assert 0 < rows[0]["kl_truth"] < 0.001  # not 0: Eq. 6 smooths the simulated side, even against itself
    assert rows[0]["r_truth"].value == pytest.approx(1.0)
    assert rows[0]["kl_judged"] is None and rows[1]["kl_judged"] == rows[1]["kl_truth"] > 0


def test_the_real_row_of_the_sizes_has_the_distances_between_its_halves(sets):
    real, one, two = sets
    evaluation = evaluate(
        [
            Simulator(name="sft-4", sessions=shuffle_words_within_user(one)),
            Simulator(name="sft-8", sessions=two),
        ],
        real,
    )
    sheet = sizes_sheet(evaluation, [4, 8])
    rows = [dict(zip(sheet.columns, row, strict=True)) for row in sheet.rows]
    assert [row["sft_sessions"] for row in rows] == [None, 4, 8]
    assert rows[0]["kl"] == evaluation.issues.floor.divergence.kl
    assert rows[2]["entropy"].value == evaluation.linguistic.rows[1].features["entropy"].mean.value


def test_contexts_are_the_first_sessions_with_each_chatbot(sets):
    chosen = first_of_each_chatbot(sets[0], 2, ["echo", "stoic"])
    assert chosen["adversarial"] == [] and [s.chatbot for s in chosen["evaluation"]] == ["echo"] * 2 + ["stoic"] * 2
    assert chosen["evaluation"][0] == next(s for s in sets[0] if s.chatbot == "echo")
