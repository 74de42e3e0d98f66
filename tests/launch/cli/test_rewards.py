"""``rlenv rewards`` on a finished run, and what it says."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from launch.cli.main import app
from launch.cli.rewards import check_version, newest_judged, sentences
from rlenv.core.errors import ConfigError
from rlenv.evaluation.rewards import RealAmongSimulated, reward_check


@pytest.mark.slow
@pytest.mark.ray
def test_a_runs_rewards_are_measured_on_the_evaluation_users_real_sessions(finished_run, local_ray):
    command = ["rewards", str(finished_run), "it1", "--sessions", "2", "--turns", "1", "--json"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    check = json.loads(done.stdout)["it1"]
    assert check["num_turns"] == 2 and 2 <= check["num_pairs"] <= 16
    assert 0 <= check["accuracy"]["value"] <= 1


def test_the_newest_version_with_a_discriminator_is_taken(finished_run):
    assert newest_judged(finished_run) == "it2"


def test_a_version_without_a_discriminator_is_named_before_an_engine_starts(finished_run):
    with pytest.raises(ConfigError, match="no discriminator of 'it9'; there are base, it1, it2"):
        check_version(finished_run, "it9", 1, 1, 0)


def check_of(*log_odds, times=40):
    found = [
        RealAmongSimulated(session_id=f"s{i}", turn=1, real=real, simulated=simulated)
        for i in range(times)
        for real, *simulated in [log_odds[i % len(log_odds)]]
    ]
    return reward_check(found, num_too_long=1)


def test_the_sentences_say_what_the_rewards_are_worth():
    right = "\n".join(sentences("it1", check_of((2.0, 0.0), (2.0, 0.0), (2.0, 0.0), (0.0, 2.0))))
    assert "at 40 turns of 40 real sessions" in right and "75 % [" not in right and "75% [" in right
    assert "they promise too much: dpo.beta=1.8" in right  # sigma(2 s) = 3 / 4 at s = ln(3) / 2
    assert "left out as too long for the discriminator: 1 sessions" in right
    nothing = "\n".join(sentences("it1", check_of((1.0, 0.0), (0.0, 1.0))))
    assert "an update on them learns noise" in nothing
    sure = "\n".join(sentences("it1", check_of((0.1, 0.0), (0.1, 0.0), (0.1, 0.0), (0.0, 0.1))))
    assert "they promise too little" in sure
    assert sentences("it1", reward_check([])) == ["it1: no turn could be compared"]
