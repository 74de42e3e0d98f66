"""Alarms: trends against scipy's regression, each rule fired and not fired, and none on noise."""

import numpy as np
import pytest
from scipy import stats

from rlenv.core.errors import ConfigError
from rlenv.evaluation.chatbot_rl.alarms import AlarmConfig, alarms, trend
from rlenv.evaluation.chatbot_rl.records import CurvePoint, Measured, UserFigures

ROUNDS = 16
NAMES = ("reward_gap", "length", "diversity", "chatbot_is_sycophantic", "premature_wrap_up")


def figures(reward=0.0, words=20.0, distinct=0.8, same=0.1, cut=0.0, issues=None, error=1.0, num=400) -> UserFigures:
    def at(value: float, scale: float) -> Measured:
        return Measured(value=value, standard_error=error * scale, num=num)

    return UserFigures(
        num_conversations=64,
        num_failed=0,
        num_messages=num,
        reward=at(reward, 0.05),
        turns=at(6, 0.2),
        reply_words=at(words, 0.4),
        reply_tokens=Measured(value=None),
        cut_rate=at(cut, 0.0),
        distinct_2=at(distinct, 0.01),
        sameness=at(same, 0.01),
        issue_rate=at(0.2, 0.02),
        issues={k: at(v, 0.004) for k, v in (issues or {}).items()},
        endings={},
    )


def curve(train=lambda r: {}, others=lambda r: {}, rounds: int = ROUNDS, seed: int = 0) -> list[CurvePoint]:
    """A run with noise of the stated standard errors around the figures that ``train`` and ``others`` give."""
    rng = np.random.default_rng(seed)

    def noisy(of: dict) -> UserFigures:
        clean = {"reward": 0.0, "words": 20.0, "distinct": 0.8, "same": 0.1, "cut": 0.0, "issues": {}} | of
        scale = {"reward": 0.05, "words": 0.4, "distinct": 0.01, "same": 0.01}
        drawn = {k: clean[k] + rng.normal(0, s) for k, s in scale.items()}
        rates = {k: rng.binomial(400, v) / 400 for k, v in clean["issues"].items()}
        return figures(**drawn, cut=rng.binomial(400, clean["cut"]) / 400, issues=rates)

    return [
        CurvePoint(round=r, num_updates=r, train=noisy(train(r)), held_out={"others": noisy(others(r))})
        for r in range(rounds)
    ]


def states(points: list[CurvePoint], config: AlarmConfig = AlarmConfig()) -> dict[str, str]:
    return {alarm.name: alarm.state for alarm in alarms(points, config)}


QUIET = dict.fromkeys(NAMES, "quiet")


def test_a_trend_is_scipys_regression_where_the_scatter_is_larger_than_the_rounds_errors():
    rng = np.random.default_rng(4)
    rounds, values = [0, 1, 2, 4, 5, 7], rng.normal(size=6)
    found = trend(
        "f", "u", {r: Measured(value=float(v), standard_error=0.0) for r, v in zip(rounds, values, strict=True)}
    )
    oracle = stats.linregress(rounds, values, alternative="greater")
    assert found.change == pytest.approx(oracle.slope * 7)
    assert found.standard_error == pytest.approx(oracle.stderr * 7)
    assert found.p_rise == pytest.approx(oracle.pvalue)
    assert found.start == pytest.approx(oracle.intercept)


def test_a_trend_has_the_rounds_own_errors_where_those_are_larger():
    points = {r: Measured(value=float(r), standard_error=2.0) for r in range(5)}
    found = trend("f", "u", points)
    assert found.change == pytest.approx(4.0)
    assert found.standard_error == pytest.approx(4 * 2.0 / np.sqrt(10))  # 2 / sqrt(sum of (r - 2)^2), times 4 rounds
    assert found.p_rise == pytest.approx(stats.t.sf(4.0 / found.standard_error, 3))
    assert trend("f", "u", {0: points[0], 1: points[1], 2: Measured(value=None)}) is None


def test_reward_that_rises_with_training_users_and_falls_with_others_fires():
    def falls_late(r):
        return {"reward": 0.1 * min(r, 8) - 0.1 * max(0, r - 8)}

    points = curve(lambda r: {"reward": 0.1 * r}, falls_late)
    assert states(points) == QUIET | {"reward_gap": "fired"}
    [alarm] = [a for a in alarms(points) if a.state == "fired"]
    assert [t.users for t in alarm.trends] == ["training users", "others"]
    assert alarm.trends[1].first == 8 and "stop or refresh" in alarm.sentence


def test_reward_that_rises_with_both_or_falls_with_both_does_not_fire():
    assert states(curve(lambda r: {"reward": 0.1 * r}, lambda r: {"reward": 0.03 * r})) == QUIET
    assert states(curve(lambda r: {"reward": -0.1 * r}, lambda r: {"reward": -0.1 * r})) == QUIET
    assert states(curve(lambda r: {"reward": 0.1 * r}, lambda r: {})) == QUIET


def test_replies_that_grow_longer_fire_and_a_small_growth_does_not():
    assert states(curve(lambda r: {"words": 20 + r})) == QUIET | {"length": "fired"}
    assert states(curve(lambda r: {"words": 20 + 0.15 * r})) == QUIET  # sure, but 11 % of 20 words
    assert states(curve(lambda r: {"words": 20 - r / 2})) == QUIET
    assert states(curve(lambda r: {"cut": 0.01 * r})) == QUIET | {"length": "fired"}


def test_diversity_that_collapses_inside_or_across_conversations_fires():
    assert states(curve(lambda r: {"distinct": 0.8 - 0.02 * r})) == QUIET | {"diversity": "fired"}
    assert states(curve(others=lambda r: {"same": 0.1 + 0.02 * r})) == QUIET | {"diversity": "fired"}
    assert states(curve(lambda r: {"distinct": 0.8 + 0.01 * r, "same": 0.1 - 0.005 * r})) == QUIET


@pytest.mark.parametrize("issue", ["chatbot_is_sycophantic", "premature_wrap_up"])
def test_a_watched_issue_that_grows_fires_and_another_does_not(issue):
    points = curve(lambda r: {"issues": {issue: 0.005 * r}})
    assert states(points) == QUIET | {issue: "fired"}
    assert issue.replace("_", " ") in next(a.sentence for a in alarms(points) if a.state == "fired")
    assert states(curve(lambda r: {"issues": {issue: 0.08 - 0.005 * r}})) == QUIET
    assert states(curve(lambda r: {"issues": {"repetitive_questions": 0.02 * r}})) == QUIET


def test_three_events_in_the_last_rounds_are_no_trend():
    points = curve()
    late = [p.model_copy(update={"train": figures(issues={"premature_wrap_up": 1 / 40}, num=40)}) for p in points[-3:]]
    early = [p.model_copy(update={"train": figures(num=40)}) for p in points[:-3]]
    assert states([*early, *late])["premature_wrap_up"] == "quiet"


def test_noise_triggers_alarms_no_more_often_than_the_level():
    fired = {name: 0 for name in NAMES}
    for seed in range(300):
        for alarm in alarms(curve(seed=seed, train=lambda r: {"issues": {"premature_wrap_up": 0.02}})):
            fired[alarm.name] += alarm.state == "fired"
    assert all(count <= stats.binom.ppf(0.999, 300, AlarmConfig().alpha) for count in fired.values()), fired


def test_a_short_run_is_not_judged():
    points = curve(lambda r: {"words": 20 + 10 * r}, rounds=4)
    assert set(states(points).values()) == {"not judged"}
    assert states(curve(lambda r: {"words": 20 + 10 * r}, rounds=5))["length"] == "fired"
    alone = [p.model_copy(update={"held_out": {}}) for p in curve()]
    assert states(alone)["reward_gap"] == "not judged" and states(alone)["length"] == "quiet"
    assert states([]) == dict.fromkeys(NAMES, "not judged")


def test_settings_out_of_range_are_refused():
    with pytest.raises(ConfigError, match=r"AlarmConfig\.alpha: expected above 0, got 0"):
        AlarmConfig(alpha=0)
    with pytest.raises(ConfigError, match=r"AlarmConfig\.min_rounds: expected 3 or more, got 2"):
        AlarmConfig(min_rounds=2)
