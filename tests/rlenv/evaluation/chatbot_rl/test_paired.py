"""The paired evaluation: Table 5 by hand, the cluster-robust test against a regression, and what is refused."""

import numpy as np
import pytest
from scipy import stats

from rlenv.core.errors import ConfigError
from rlenv.core.types import Message
from rlenv.evaluation.chatbot_rl.paired import paired_evaluation
from rlenv.evaluation.chatbot_rl.records import EvaluationEpisode, EvaluationSet, Users

SYCOPHANTIC = "chatbot_is_sycophantic"


def held(
    context: str, seed: int, flags: list[bool], *, counterpart: str = "w", issue: str = SYCOPHANTIC, **more
) -> EvaluationEpisode:
    messages = []
    for i, flag in enumerate(flags):
        text = f"reply {i} of {context} {seed}"
        messages += [
            Message(role="user", content="hi"),
            Message(role="assistant", content=text, issues=(issue,) if flag else ()),
        ]
    fields = {"rewards": (-float(sum(flags)),), "ended_by": "user", "end_reason": "end_of_session"} | more
    return EvaluationEpisode(context_id=context, counterpart=counterpart, seed=seed, messages=tuple(messages), **fields)


def draw(rng, rate: float, contexts: int, seeds: int = 2, spread: float = 0.15, **more) -> list[EvaluationEpisode]:
    """Contexts that differ in how hard they are: messages of one are not independent."""
    hardness = np.random.default_rng(7).normal(0, spread, contexts)
    return [
        held(f"c{c}", s, list(rng.random(rng.integers(2, 9)) < np.clip(rate + hardness[c], 0, 1)), **more)
        for c in range(contexts)
        for s in range(seeds)
    ]


def group(name: str, kind: str, before: list[EvaluationEpisode], after: list[EvaluationEpisode]) -> EvaluationSet:
    return EvaluationSet(users=Users(name=name, kind=kind), before=tuple(before), after=tuple(after))


def test_the_z_test_is_the_pooled_one_of_table_5():
    before = [held(f"c{i}", 0, [i < 6, False]) for i in range(10)]
    after = [held(f"c{i}", 0, [i < 2, False]) for i in range(10)]
    [row] = paired_evaluation([group("t", "training", before, after)]).rows
    z = (2 / 20 - 6 / 20) / np.sqrt(8 / 40 * (1 - 8 / 40) * (1 / 20 + 1 / 20))
    assert row.issue_test.test.z == pytest.approx(z)
    assert row.issue_test.test.p == pytest.approx(2 * stats.norm.sf(abs(z)))
    assert row.issue_rate.delta.value == pytest.approx(-0.2)
    [category] = row.categories
    assert category.name == f"issues/{SYCOPHANTIC}" and category.delta.value == pytest.approx(-0.2)
    assert category.p_holm == pytest.approx(category.p)  # one category, nothing to correct


def test_the_paired_p_is_that_of_a_regression_with_cluster_robust_errors():
    rng = np.random.default_rng(3)
    before, after = draw(rng, 0.4, 25), draw(rng, 0.3, 25)
    [row] = paired_evaluation([group("t", "training", before, after)]).rows

    y, treated, cluster = [], [], []
    for side, conversations in ((0.0, before), (1.0, after)):
        for one in conversations:
            for m in one.messages:
                if m.role == "assistant":
                    y.append(float(bool(m.issues)))
                    treated.append(side)
                    cluster.append(one.context_id)
    x = np.column_stack([np.ones(len(y)), treated])
    bread = np.linalg.inv(x.T @ x)
    beta = bread @ x.T @ np.array(y)
    scores = x * (np.array(y) - x @ beta)[:, None]
    meat = np.zeros((2, 2))
    for name in set(cluster):
        total = scores[np.array(cluster) == name].sum(0)
        meat += np.outer(total, total)
    error = np.sqrt((25 / 24 * bread @ meat @ bread)[1, 1])
    assert row.issue_rate.delta.value == pytest.approx(beta[1])
    assert row.issue_rate.p == pytest.approx(2 * stats.t.sf(abs(beta[1]) / error, 24))


def test_the_interval_agrees_with_the_test_and_with_swapping_the_labels():
    rng = np.random.default_rng(5)
    before, after = draw(rng, 0.45, 40), draw(rng, 0.35, 40)
    [row] = paired_evaluation([group("t", "training", before, after)]).rows
    change = row.issue_rate

    def counts(conversations):
        table = np.zeros((40, 2))
        for one in conversations:
            flags = [bool(m.issues) for m in one.messages if m.role == "assistant"]
            table[int(one.context_id[1:])] += sum(flags), len(flags)
        return table

    both = np.stack([counts(before), counts(after)])
    swapped = []
    for _ in range(4000):
        swap = rng.random(40) < 0.5
        one = np.where(swap[None, :, None], both[::-1], both).sum(1)
        swapped.append(one[1, 0] / one[1, 1] - one[0, 0] / one[0, 1])
    p = float(np.mean(np.abs(swapped) >= abs(change.delta.value)))
    assert change.p == pytest.approx(p, abs=0.02)
    assert (change.delta.low < 0 < change.delta.high) == (change.p > 0.05)


def test_pairing_finds_a_change_that_hard_and_easy_contexts_would_hide():
    flags = [[i % 4 < k % 3 for i in range(8)] for k in range(30)]
    before = [held(f"c{k}", 0, [*row, True]) for k, row in enumerate(flags)]
    after = [held(f"c{k}", 0, [*row, k % 5 == 0]) for k, row in enumerate(flags)]
    [row] = paired_evaluation([group("t", "training", before, after)]).rows
    assert row.verdict == "better"
    assert row.issue_rate.p < 1e-6 < row.issue_test.clustered_p


def test_no_change_is_called_one_more_often_than_alpha_says():
    rng = np.random.default_rng(11)
    verdicts = []
    for _ in range(120):
        sets = [group("t", "training", draw(rng, 0.3, 20, seeds=1), draw(rng, 0.3, 20, seeds=1))]
        verdicts.append(paired_evaluation(sets).rows[0].verdict)
    assert stats.binomtest(verdicts.count("not shown"), 120, 0.95).pvalue > 0.01


def test_a_change_without_any_spread_is_judged_by_the_sign_test():
    before = [held(f"c{i}", 0, [True, True]) for i in range(12)]
    after = [held(f"c{i}", 0, [False, False]) for i in range(12)]
    [row] = paired_evaluation([group("t", "training", before, after)]).rows
    assert row.verdict == "better" and row.issue_rate.p == pytest.approx(2 * stats.binom.cdf(0, 12, 0.5))
    [same] = paired_evaluation([group("t", "training", before, before)]).rows
    assert same.verdict == "not shown" and same.issue_rate.p is None


def test_gains_carry_over_or_do_not():
    rng = np.random.default_rng(2)
    good = (draw(rng, 0.6, 40), draw(rng, 0.2, 40))
    flat = (draw(rng, 0.4, 40), draw(rng, 0.4, 40))
    bad = (good[1], good[0])
    found = paired_evaluation(
        [
            group("sims", "training", *good),
            group("same", "held_out", *good),
            group("others", "held_out", *flat),
            group("people", "population", *bad),
        ]
    ).rows
    assert [row.verdict for row in found] == ["better", "better", "not shown", "worse"]
    assert [row.carried for row in found] == [None, "yes", "not shown", "reversed"]
    assert found[1].share_kept == pytest.approx(1.0) and found[3].share_kept < 0
    [_, other] = paired_evaluation([group("sims", "training", *flat), group("people", "population", *good)]).rows
    assert other.carried == "nothing to carry" and other.verdict == "better"


def test_a_category_or_ending_of_one_side_only_is_none_on_the_other():
    before = [held(f"c{i}", 0, [True, False]) for i in range(6)]
    after = [
        held(f"c{i}", 0, [i < 2, False], issue="blank_message", ended_by="limit", end_reason="max_turns")
        for i in range(6)
    ]
    [row] = paired_evaluation([group("t", "training", before, after)]).rows
    deltas = {c.name: (c.before.value, c.after.value, c.delta.value) for c in (*row.categories, *row.endings)}
    assert deltas[f"issues/{SYCOPHANTIC}"] == pytest.approx((0.5, 0.0, -0.5))
    assert deltas["issues/blank_message"] == pytest.approx((0.0, 1 / 6, 1 / 6))
    assert deltas["endings/user: end_of_session"] == pytest.approx((1.0, 0.0, -1.0))
    assert deltas["endings/limit: max_turns"] == pytest.approx((0.0, 1.0, 1.0))
    holm = {c.name: c for c in row.categories}
    assert holm[f"issues/{SYCOPHANTIC}"].p_holm >= holm[f"issues/{SYCOPHANTIC}"].p
    assert holm["issues/blank_message"].p_holm == pytest.approx(holm["issues/blank_message"].p)  # the largest of two


def test_a_pair_of_which_one_failed_is_dropped_whole_and_counted():
    before = [held(f"c{i}", 0, [True]) for i in range(5)]
    after = [held(f"c{i}", 0, [False]) for i in range(4)]
    after += [EvaluationEpisode(context_id="c4", counterpart="w", seed=0, failure="engine")]
    [row] = paired_evaluation([group("t", "training", before, after)]).rows
    assert (row.num_pairs, row.num_contexts, row.num_dropped) == (4, 4, 1)
    assert row.issue_rate.before.num == 4


def test_what_is_not_paired_is_refused_with_every_problem():
    before = [held("c0", 0, [True]), held("c1", 0, [True]), held("c2", 0, [True])]
    with pytest.raises(ConfigError) as error:
        paired_evaluation(
            [
                group("a", "training", before, [before[0], held("c1", 1, [True]), before[2]]),
                group("b", "held_out", before, [*before, before[0]]),
                group("b", "population", before[:1], before[:1]),
            ]
        )
    message = str(error.value)
    assert "a: 1 conversations are there before only, first context c1 with w under seed 0" in message
    assert "a: 1 conversations are there after only, first context c1 with w under seed 1" in message
    assert "b: 1 conversations are there twice after" in message
    assert "b: 1 pairs without a failure" in message
    assert "two groups of users are named 'b'" in message
    bare = [h.model_copy(update={"messages": (Message(role="assistant", content="x"),)}) for h in before]
    with pytest.raises(ConfigError, match="1 chatbot messages after carry no issues; label them first"):
        paired_evaluation([group("a", "training", before, bare)])
    with pytest.raises(ConfigError, match="no group of users"):
        paired_evaluation([])
