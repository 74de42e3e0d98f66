"""Ensembles: the draw of the counterpart follows the weights and the seed, and wrong weights are reported."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from scipy.stats import chisquare

from rlenv.core.errors import ConfigError
from rlenv.core.types import SessionContext
from rlenv.env.core import ConversationCore
from rlenv.env.ensemble import Ensemble
from rlenv.env.scenarios import Scenario
from rlenv.speakers.scripted import ScriptedUser

VERSIONS = ("base", "it1", "it2", "it3")
USERS = {name: ScriptedUser(name) for name in VERSIONS}
NUM_SEEDS = 4000


@pytest.mark.parametrize("weights", [None, {"base": 1, "it1": 2, "it2": 3, "it3": 4}, dict.fromkeys(VERSIONS, 0.2)])
def test_each_version_gets_its_share_of_seeds(weights):
    ensemble = Ensemble(USERS, weights)
    counts = Counter(ensemble.draw(seed) for seed in range(NUM_SEEDS))
    total = sum((weights or dict.fromkeys(VERSIONS, 1)).values())
    expected = [NUM_SEEDS * (weights or {}).get(name, 1) / total for name in VERSIONS]
    assert chisquare([counts[name] for name in VERSIONS], expected).pvalue > 0.001
    # the test has the power to see another mix: these counts are not uniform
    if weights and weights["it3"] != weights["base"]:
        assert chisquare([counts[name] for name in VERSIONS]).pvalue < 1e-6


def test_the_draw_depends_only_on_the_seed_and_the_shares():
    weights = {"base": 1, "it1": 2, "it2": 3, "it3": 4}
    one = Ensemble(USERS, weights)
    two = Ensemble(dict(reversed(USERS.items())), {name: 10.0 * w for name, w in reversed(weights.items())})
    assert [one.draw(seed) for seed in range(200)] == [two.draw(seed) for seed in range(200)]
    assert one.shares == {"base": 0.1, "it1": 0.2, "it2": 0.3, "it3": 0.4}


def test_a_version_of_weight_zero_is_available_but_never_drawn():
    ensemble = Ensemble(USERS, {"base": 0, "it1": 1, "it2": 0, "it3": 0})
    assert {ensemble.draw(seed) for seed in range(100)} == {"it1"}
    assert set(ensemble) == set(VERSIONS) and ensemble["base"] is USERS["base"]


def test_every_wrong_weight_is_reported_at_once():
    with pytest.raises(ConfigError) as caught:
        Ensemble(USERS, {"base": -1, "it1": float("nan"), "it2": True, "its3": 1})
    assert str(caught.value).splitlines() == [
        "weights: no speaker 'its3'; there are base, it1, it2, it3; did you mean 'it3'?",
        "weights: 'it3' has none; give it 0 if it should only be available on request",
        "weights.base: expected a finite number of 0 or more, got -1",
        "weights.it1: expected a finite number of 0 or more, got nan",
        "weights.it2: expected a finite number of 0 or more, got True",
    ]
    with pytest.raises(ConfigError, match="all are 0"):
        Ensemble(USERS, dict.fromkeys(VERSIONS, 0))
    with pytest.raises(ConfigError, match="at least one speaker for the other seat, got none"):
        Ensemble({})


def test_episodes_draw_their_user_and_record_what_it_was_drawn_from():
    scenario = Scenario(context_id="c", user_id="u", context=SessionContext())
    ensemble = Ensemble(USERS, {"base": 1, "it1": 2, "it2": 3, "it3": 4})
    core = ConversationCore([scenario], ensemble, "chatbot")

    async def infos(**options):
        return [(await core.reset(seed=seed, **options))[1] for seed in range(60)]

    drawn = asyncio.run(infos())
    assert [i["counterpart"] for i in drawn] == [ensemble.draw(seed) for seed in range(60)]
    assert {i["counterpart"] for i in drawn} == set(VERSIONS)
    for info in drawn:
        assert info["provenance"].simulator.name == info["counterpart"]
        assert sorted(info["provenance"].drawn_from.values()) == pytest.approx([0.1, 0.2, 0.3, 0.4])
    pinned = asyncio.run(infos(counterpart="it2"))
    assert {(i["counterpart"], i["provenance"].drawn_from) for i in pinned} == {("it2", None)}
