"""Every formula against an independent implementation, and against the paper's own numbers where they can be redone."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats
from sklearn.metrics import brier_score_loss, cohen_kappa_score
from statsmodels.stats.power import NormalIndPower
from statsmodels.stats.proportion import proportion_effectsize, proportions_ztest

from rlenv.core.types import Message, Session
from rlenv.evaluation.discriminators import calibration
from rlenv.evaluation.linguistic import linguistic_row, repeated_phrase_rate, self_bleu
from rlenv.evaluation.statistics.divergence import action_distance, binary_cross_entropy, category_deltas, kl_divergence
from rlenv.evaluation.statistics.intervals import estimate, estimate_ratio, ratio_standard_error
from rlenv.evaluation.statistics.rates import action_rates, category_counts, issue_rate
from rlenv.evaluation.statistics.validity import (
    correlate,
    correlation_p_value,
    effective_number,
    messages_needed,
    replication,
    two_proportion_test,
)
from rlenv.judges.compare import category_agreement, cohens_kappa

ACTIONS = ("agrees", "angry", "thanks")
ISSUES = ("cold", "loops", "forgets")

TABLE_3 = (  # r and p as printed, over 14 chatbots
    (0.484, 0.079),
    (0.564, 0.036),
    (0.629, 0.016),
    (0.528, 0.052),
    (0.685, 0.007),
    (0.818, 0.0003),
    (0.781, 0.001),
    (0.801, 0.0006),
)
TABLE_5 = (  # simulation's control and treatment rates, z and p as printed
    (0.0265, 0.0325, 2.83, 0.005),
    (0.0242, 0.0287, 2.23, 0.026),
    (0.0178, 0.0213, 2.02, 0.044),
)


def session(name: str, user=(), assistant=(), texts=()) -> Session:
    """Returns a session of labelled messages: ``user`` and ``assistant`` are labels by message."""
    messages = []
    for i in range(max(len(user), len(assistant), len(texts))):
        content = texts[i] if i < len(texts) else "x"
        messages.append(Message(role="user", content=content, actions=user[i] if i < len(user) else None))
        messages.append(Message(role="assistant", content="y", issues=assistant[i] if i < len(assistant) else None))
    return Session(session_id=name, messages=tuple(messages))


@pytest.mark.parametrize(("r", "p"), TABLE_3)
def test_p_values_are_those_of_the_papers_table_3(r, p):
    digits = len(str(p).split(".")[1])
    low, high = sorted(correlation_p_value(r + d, 14) for d in (-0.0005, 0.0005))  # r itself is rounded
    half = 0.5 * 10**-digits
    assert low - half <= p <= high + half


@pytest.mark.parametrize(("control", "treatment", "z", "p"), TABLE_5)
def test_z_values_are_those_of_the_papers_table_5_at_one_sample_size(control, treatment, z, p):
    """The paper does not print its sample size; 12,700 messages an arm give all three rows within rounding."""
    num = 12_700
    ours = [
        two_proportion_test(round((control + d) * num), num, round((treatment - d) * num), num)
        for d in (-0.00005, 0.00005)
    ]
    assert min(t.z for t in ours) - 0.005 <= z <= max(t.z for t in ours) + 0.005
    assert 2 * stats.norm.sf(z + 0.005) - 0.0005 <= p <= 2 * stats.norm.sf(z - 0.005) + 0.0005


def test_correlation_is_scipys():
    rng = np.random.default_rng(0)
    x = rng.random(14)
    y = x + 0.3 * rng.random(14)
    ours, pearson, spearman = correlate(x, y), stats.pearsonr(x, y), stats.spearmanr(x, y)
    assert (ours.r, ours.p) == pytest.approx((pearson.statistic, pearson.pvalue))
    assert (ours.spearman, ours.spearman_p) == pytest.approx((spearman.statistic, spearman.pvalue))
    assert ours.r_low < ours.r < ours.r_high


def test_an_undefined_correlation_is_none_and_a_missing_rate_is_an_error():
    assert correlate([0.1, 0.2], [0.1, 0.2]).r is None
    assert correlate([0.1] * 5, [0.1, 0.2, 0.3, 0.4, 0.5]).r is None
    assert correlate([0.1, 0.2, 0.3], [0.2, 0.4, 0.6]).p == 0.0
    with pytest.raises(ValueError, match="without sessions"):
        correlate([0.1, float("nan"), 0.3], [0.1, 0.2, 0.3])


def test_the_z_test_is_statsmodels():
    z, p = proportions_ztest([30, 18], [400, 380])
    ours = two_proportion_test(18, 380, 30, 400)
    assert (ours.z, ours.p) == pytest.approx((z, p))
    assert two_proportion_test(0, 10, 0, 10).z is None
    with pytest.raises(ValueError, match="5 of 0"):
        two_proportion_test(5, 0, 1, 2)


def test_the_number_of_messages_has_the_requested_power():
    num = messages_needed(0.05, 0.08)
    effect = proportion_effectsize(0.08, 0.05)
    assert num == pytest.approx(NormalIndPower().solve_power(effect, power=0.8, alpha=0.05), rel=0.02)
    rng = np.random.default_rng(0)
    found = [
        two_proportion_test(int(rng.binomial(num, 0.05)), num, int(rng.binomial(num, 0.08)), num).p < 0.05
        for _ in range(2000)
    ]
    assert np.mean(found) == pytest.approx(0.8, abs=0.03)


def test_sessions_that_cluster_failures_are_worth_fewer_messages():
    assert effective_number([1, 0, 1, 0] * 25, [1] * 100) == pytest.approx(99, rel=0.01)
    clustered = effective_number([10, 0, 10, 0] * 25, [10] * 100)
    assert clustered == pytest.approx(99, rel=0.02)  # ten messages of one session say what one says
    events, messages = [3, 0, 5, 1, 0, 2], [9, 4, 10, 8, 7, 5]
    ours = effective_number([*events, 0], [*messages, 0])  # who said nothing counts for nothing
    rows = [(i, float(k < e)) for i, (e, m) in enumerate(zip(events, messages, strict=True)) for k in range(m)]
    groups, y = np.array([i for i, _ in rows]), np.array([v for _, v in rows])
    fit = sm.OLS(y, np.ones(len(y))).fit(cov_type="cluster", cov_kwds={"groups": groups, "use_correction": False})
    variance = fit.bse[0] ** 2 * 6 / 5
    assert ours == pytest.approx(y.mean() * (1 - y.mean()) / variance)
    assert ratio_standard_error(events, messages) == pytest.approx(math.sqrt(variance))
    assert effective_number([0, 0], [4, 4]) is effective_number([1], [4]) is None


def test_a_reversal_needs_two_significant_tests_in_other_directions():
    up, down = two_proportion_test(100, 1000, 200, 1000), two_proportion_test(200, 1000, 100, 1000)
    chance = two_proportion_test(101, 1000, 100, 1000)
    assert replication(up, up) == "agree"
    assert replication(up, down) == "reversal"
    assert replication(up, chance) == "not contradicted"


def test_kl_is_scipys_and_an_empty_category_is_reported():
    real, simulated = {"a": 5, "b": 3, "c": 2}, {"a": 2, "b": 6, "c": 1}
    p, q = np.array([5, 3, 2]), np.array([2, 6, 1])
    ours = kl_divergence(real, simulated)
    assert ours.kl_unsmoothed == pytest.approx(stats.entropy(p, q))
    assert ours.kl == pytest.approx(stats.entropy(p, 0.95 * q / 9 + 0.05 / 3))
    gap = kl_divergence({"a": 5, "b": 1, "never": 0}, {"a": 5, "d": 2})
    assert gap.kl_unsmoothed is None and math.isfinite(gap.kl) and gap.kl > 0
    assert (gap.only_real, gap.only_simulated) == (("b",), ("d",))
    assert gap.kl == pytest.approx(stats.entropy([5 / 6, 1 / 6, 0], 0.95 * np.array([5, 0, 2]) / 7 + 0.05 / 3))
    four = kl_divergence({"a": 5, "b": 1}, {"a": 20, "d": 8})
    assert four.kl == pytest.approx(gap.kl), "more sessions of the same simulator are no other distance"
    assert kl_divergence({"a": 1}, {}).kl is None


def test_deltas_are_differences_of_shares_and_sum_to_nothing():
    deltas = category_deltas({"a": 3, "b": 1}, {"b": 1, "c": 1})
    assert deltas == {"c": 0.5, "b": 0.25, "a": -0.75}
    assert category_deltas({}, {"a": 1}) == {}


def test_bce_is_smallest_for_a_perfect_simulator_and_its_excess_is_the_divergence():
    p, q = [0.2, 0.05, 0.6], [0.3, 0.01, 0.5]
    by_hand = np.mean(
        [stats.entropy([a, 1 - a]) + stats.entropy([a, 1 - a], [b, 1 - b]) for a, b in zip(p, q, strict=True)]
    )
    assert binary_cross_entropy(p, q) == pytest.approx(by_hand)
    assert binary_cross_entropy(p, p) < binary_cross_entropy(p, q)
    with pytest.raises(ValueError, match="smooth"):
        binary_cross_entropy([0.2], [0.0])


def test_action_rates_count_annotated_messages_and_their_error_is_by_session():
    sessions = [
        session("1", user=[("agrees", "agrees"), ("thanks",), None]),
        session("2", user=[(), ("agrees",), ("agrees",), ()]),
    ]
    rates = action_rates(sessions, ACTIONS)
    assert (rates.num_messages, rates.num_sessions) == (6, 2)
    assert rates.rates["agrees"].count == 3 and rates.rates["agrees"].rate == 0.5
    assert rates.rates["angry"].rate == 0.0
    # by hand: residuals 1 - 0.5 x 2 = 0 and 2 - 0.5 x 4 = 0
    assert rates.rates["agrees"].standard_error == pytest.approx(0.0)
    assert rates.rates["thanks"].standard_error == pytest.approx(math.sqrt(2 * (2 / 3) ** 2 * 2) / 6)
    assert action_distance(rates, rates, ACTIONS).excess == pytest.approx(0.0)
    empty = action_rates([session("3")], ACTIONS)
    assert empty.rates["agrees"].rate is None and action_distance(rates, empty, ACTIONS).mean is None


def test_a_label_outside_the_categories_counts_in_none_of_them():
    rates = action_rates([session("s7", user=[("dances",), ("agrees", "dances")])], ACTIONS)
    assert rates.rates["agrees"].rate == 0.5 and "dances" not in rates.rates
    assert set(category_counts([session("s7", assistant=[("sings",)])], ISSUES).values()) == {0}


def test_the_issue_rate_counts_messages_not_issues():
    sessions = [session("1", assistant=[("cold", "loops"), ()]), session("2", assistant=[(), ("cold",), None])]
    rate = issue_rate(sessions)
    assert (rate.num_issues, rate.num_messages, rate.estimate.value) == (2, 4, 0.5)
    assert category_counts(sessions, ISSUES) == {"cold": 2, "loops": 1, "forgets": 0}
    assert issue_rate([]).estimate.value is None


def test_intervals_cover_the_truth_at_their_confidence_level():
    rng = np.random.default_rng(1)
    covered = 0
    for seed in range(120):
        lengths = rng.integers(3, 12, size=60)
        events = rng.binomial(lengths, rng.beta(2, 8, size=60))  # sessions differ in their own rate
        found = estimate_ratio(events, lengths, seed=seed)
        covered += found.low <= 0.2 <= found.high
    assert 0.88 <= covered / 120 <= 0.99
    assert estimate([3.0]).low is None and estimate([2.0, 2.0]).low is None


def test_an_interval_of_many_sessions_is_the_one_shot_bootstraps_without_the_square_of_their_number_in_memory():
    values = np.random.default_rng(0).exponential(size=5000)
    tracemalloc.start()
    found = estimate(values.tolist(), seed=3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * len(values) ** 2 / 2
    whole = stats.bootstrap((values,), np.mean, n_resamples=2000, method="BCa", rng=np.random.default_rng(3))
    assert (found.low, found.high) == tuple(whole.confidence_interval)


def test_kappa_is_scikit_learns():
    rng = np.random.default_rng(0)
    a, b = rng.random(200) < 0.3, rng.random(200) < 0.5
    assert cohens_kappa(list(a), list(b)).kappa == pytest.approx(cohen_kappa_score(a, b))
    assert cohens_kappa([False] * 4, [False] * 4).kappa is None
    table = category_agreement([("x",), (), ("x", "y")], [("x",), ("x",), ()], ["x", "y", "z"])
    assert table["x"].kappa == pytest.approx(cohen_kappa_score([1, 0, 1], [1, 1, 0]))
    assert table["z"].observed == 1.0 and table["z"].kappa is None


def test_calibration_is_scikit_learns_brier_and_a_calibrated_judge_has_no_error():
    rng = np.random.default_rng(0)
    p = rng.random(20_000)
    real = rng.random(20_000) < p
    ours = calibration(list(real), np.log(p / (1 - p)).tolist())
    assert ours.brier == pytest.approx(brier_score_loss(real, p))
    assert ours.expected_error < 0.02
    sure = calibration([True, False], [9.0, 9.0])
    assert sure.expected_error == pytest.approx(0.5, abs=1e-3) and sum(b.num for b in sure.bins) == 2


def test_lexical_figures_by_hand_and_self_bleu_tells_copies_from_different_sessions():
    messages = [["i", "am", "so", "tired"], ["i", "am", "so", "tired"], ["ok"]]
    assert repeated_phrase_rate(messages) == 1.0
    copies = [session(str(i), texts=["I can not sleep at night and I am tired"]) for i in range(4)]
    others = [session(str(i), texts=[t]) for i, t in enumerate(["my dog ran off today", "work was hard, again", "no"])]
    assert self_bleu(copies).value == pytest.approx(100.0)
    assert self_bleu(others).value < 10
    assert self_bleu(copies[:1]).value is None
    row = linguistic_row("all", [*copies, *others]).features
    assert row["words_per_message"].mean.value == pytest.approx((10 * 4 + 5 + 4 + 1) / 7)
    assert row["repeated_phrases"].mean.num == 6  # one session is too short for a phrase
    assert linguistic_row("none", []).features["ttr"].mean.value is None
