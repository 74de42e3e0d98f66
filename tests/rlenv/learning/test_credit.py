"""Advantages by hand, against TRL's own, and the policy gradient that they give, enumerated on a small problem."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from rlenv.core.errors import ConfigError
from rlenv.learning.credit import CreditConfig, above_baseline, advantages, returns_to_go, session_returns

GROUP = [[1.0, 2.0, 3.0], [5.0], [0.0, -2.0]]


def test_returns_to_go_are_0_after_the_end_and_discounted_by_message():
    assert returns_to_go(GROUP).tolist() == [[6, 5, 3], [5, 0, 0], [-2, -2, 0]]
    assert returns_to_go(GROUP, 0.5).tolist() == [[2.75, 3.5, 3], [5, 0, 0], [-1, -2, 0]]
    assert session_returns(GROUP, 0.5).tolist() == [2.75, 5, -1]


def test_one_advantage_for_the_session():
    # Returns 6, 5, -2: mean 3, deviations 3, 2, -5, variance (9 + 4 + 25) / 2 = 19.
    grpo = advantages([GROUP], CreditConfig())[0]
    assert [a.tolist() for a in grpo] == [
        pytest.approx([d / (19**0.5 + 1e-4)] * n) for d, n in ((3, 3), (2, 1), (-5, 2))
    ]
    # Each minus the mean of the others: 6 - 1.5, 5 - 2, -2 - 5.5.
    rloo = advantages([GROUP], CreditConfig(estimator="rloo", scale="none"))[0]
    assert [a.tolist() for a in rloo] == [[4.5] * 3, [3.0], [-7.5] * 2]


def test_an_advantage_for_each_turn_counts_ended_conversations_as_0():
    found = advantages([GROUP], CreditConfig(level="turn", estimator="rloo", scale="none"))[0]
    # Turn 1: 6, 5, -2. Turn 2: 5, 0, -2; the second has ended, and counts. Turn 3: 3, 0, 0.
    assert [a.tolist() for a in found] == [[4.5, 6.0, 3.0], [3.0], [-7.5, -4.5]]
    mean = advantages([GROUP], CreditConfig(level="turn", scale="none"))[0]
    assert [a.tolist() for a in mean] == [pytest.approx((np.array(a) * 2 / 3).tolist()) for a in found]


def test_scale_is_of_the_group_or_of_the_batch():
    other = [[0.0], [4.0]]
    returns = np.array([6, 5, -2, 0, 4.0])
    for level in ("session", "turn"):
        plain = advantages([GROUP, other], CreditConfig(level=level, scale="none"))
        batch = advantages([GROUP, other], CreditConfig(level=level, scale="batch"))
        group = advantages([GROUP, other], CreditConfig(level=level, scale="group"))
        for i, std in enumerate((19**0.5, 8**0.5)):
            for j, values in enumerate(plain[i]):
                assert batch[i][j] == pytest.approx(values / (returns.std(ddof=1) + 1e-4))
                assert group[i][j] == pytest.approx(values / (std + 1e-4))


@pytest.mark.parametrize("level", ("session", "turn"))
@pytest.mark.parametrize("scale", ("group", "none"))
def test_one_conversation_alone_and_equal_conversations_have_no_advantage(level, scale):
    config = CreditConfig(level=level, scale=scale)
    assert [a.tolist() for a in advantages([[[1.0, 2.0]]], config)[0]] == [[0, 0]]
    assert [a.tolist() for a in advantages([[[1.0, 2.0]] * 3], config)[0]] == [[0, 0]] * 3
    assert advantages([[]], config) == [[]]


def test_a_discount_outside_0_to_1_is_refused():
    with pytest.raises(ConfigError, match=r"CreditConfig\.discount: expected 1 or less, got 1\.5"):
        CreditConfig(discount=1.5)


# ------------------------------------------------- the two-armed problem: stop or continue, at most three times
#
# At each turn the chatbot stops (reward STOP[t], the user leaves) or goes on (reward GO[t]; after the last turn a cap
# ends it). It goes on at turn t with probability P[t] = sigmoid(theta[t]).

P = np.array([0.7, 0.4, 0.6])
STOP = np.array([0.2, -1.0, -1.5])
GO = np.array([0.5, -0.8, 0.3])
OUTCOMES = [
    (P[:t].prod() * (1 - P[t]), [*GO[:t], STOP[t]], [*(1 - P[:t]), -P[t]]) for t in range(3)
]  # probability, rewards, d log(probability of each action) / d theta
OUTCOMES.append((P.prod(), [*GO], [*(1 - P)]))


def expected_gradient(estimate, size: int = 3) -> np.ndarray:
    """E[sum over turns of advantage x d log pi / d theta] of one conversation, over all groups of ``size``: [3]."""
    total = np.zeros(3)
    for group in product(OUTCOMES, repeat=size):
        weight = np.prod([probability for probability, _, _ in group])
        for found, (_, _, scores) in zip(estimate([rewards for _, rewards, _ in group]), group, strict=True):
            total[: len(scores)] += weight * np.asarray(found) * scores / size
    return total


def exact_gradient() -> np.ndarray:
    """d E[return] / d theta, by central differences of the enumerated expectation."""

    def value(theta):
        go = 1 / (1 + np.exp(-theta))
        chances = [*(go[:t].prod() * (1 - go[t]) for t in range(3)), go.prod()]
        return sum(c * sum(rewards) for c, (_, rewards, _) in zip(chances, OUTCOMES, strict=True))

    theta, step = np.log(P / (1 - P)), 1e-5
    return np.array([(value(theta + step * e) - value(theta - step * e)) / (2 * step) for e in np.eye(3)])


@pytest.mark.parametrize("level", ("session", "turn"))
def test_leave_one_out_gives_the_exact_policy_gradient_where_the_chatbot_decides_when_to_stop(level):
    config = CreditConfig(level=level, estimator="rloo", scale="none")
    assert sum(probability for probability, _, _ in OUTCOMES) == pytest.approx(1)
    assert expected_gradient(lambda r: advantages([r], config)[0]) == pytest.approx(exact_gradient(), abs=1e-8)
    own = CreditConfig(level=level, estimator="grpo", scale="none")  # two thirds of it, at all turns alike
    assert expected_gradient(lambda r: advantages([r], own)[0]) == pytest.approx(exact_gradient() * 2 / 3, abs=1e-8)


def centred_by_turn(rewards: list[list[float]]) -> list[np.ndarray]:
    """The naive way: each turn's reward minus its mean over the conversations still running, then summed to go."""
    means = [np.mean([r[t] for r in rewards if len(r) > t]) for t in range(max(map(len, rewards)))]
    centred = [np.array(r) - means[: len(r)] for r in rewards]
    return [c[::-1].cumsum()[::-1] for c in centred]


def centred_among_the_going(rewards: list[list[float]]) -> list[np.ndarray]:
    """Another: the return-to-go minus its mean over those that still talk at that turn, oneself included."""
    to_go = returns_to_go(rewards)
    going = np.array([[t < len(r) for t in range(to_go.shape[1])] for r in rewards])
    means = (to_go * going).sum(0) / going.sum(0)
    return [(to_go[i] - means)[: len(r)] for i, r in enumerate(rewards)]


def test_baselines_by_turn_index_over_conversations_still_running_are_biased():
    exact = exact_gradient()
    by_turn = expected_gradient(centred_by_turn)
    assert exact[0] < -0.1 and by_turn[0] > 0.03  # it would learn to go on where stopping is better
    among = expected_gradient(centred_among_the_going)
    ratios = among / exact
    assert ratios[0] == pytest.approx(2 / 3)  # all talk at turn 1
    assert ratios[2] < 0.5 < ratios[1] < 0.6  # later turns count for less: another direction, not another step size


@pytest.mark.parametrize("estimator", ("grpo", "rloo"))
def test_a_baseline_is_the_mean_of_the_others_or_of_all(estimator):
    values = np.random.default_rng(0).normal(size=(5, 3))
    found = above_baseline(values, estimator)
    for i in range(5):
        rest = np.delete(values, i, axis=0) if estimator == "rloo" else values
        assert found[i] == pytest.approx(values[i] - rest.mean(0))
