"""A study's configuration: how it sets the adversarial run's, and the errors that it reports."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from launch.run.roster import make_speaker
from launch.study.config import UNTUNED, adversarial_config, evaluation_run_config, load_study
from launch.study.driver import run_study
from rlenv.core.errors import ConfigError
from rlenv.core.types import Message, Session
from rlenv.data.sessions import split_by_user
from rlenv.population.corpus import user_id_of

ROOT = Path(__file__).parents[3]


@pytest.fixture
def study(tmp_path):
    def load(**settings):
        path = tmp_path / "study.yaml"
        path.write_text(
            yaml.safe_dump({"out_dir": str(tmp_path / "study"), "chatbots": ["steady", "echo"], **settings})
        )
        return load_study(path)

    return load


def test_the_shipped_study_has_enough_sft_sessions_for_its_largest_size():
    config = load_study(ROOT / "conf/study.yaml")
    data, seed = config.run.data, config.run.seed
    messages = (Message(role="user", content="Hello."),)
    users = [
        Session(session_id=str(i), user_id=user_id_of(i, seed), messages=messages)
        for i in range(data.population.num_users)
    ]
    shares = {"sft": data.sft_share, "adversarial": data.adversarial_share, "evaluation": data.evaluation_share}
    assert len(split_by_user(users, shares, seed)["sft"]) >= config.sft_sizes[-1]


def test_too_few_sft_sessions_are_reported_before_anything_is_trained(study, tmp_path):
    config = study(sft_sizes=[4, 8], run={"data": {"population": {"num_users": 10}}})
    with pytest.raises(ConfigError, match=r"sft_sizes: expected at most 5, the number of SFT sessions, got 8;"):
        run_study(config)
    assert [p.name for p in (tmp_path / "study/adversarial/data").glob("sft*")] == ["sft.jsonl.gz"]
    assert not (tmp_path / "study/adversarial/models").exists()


def test_the_shipped_study_has_fourteen_chatbots_three_treatments_and_population_llama():
    config = load_study(ROOT / "conf/study.yaml")
    run = adversarial_config(config)
    assert len(run.chatbots) == 14 and len(config.treatments) == 3 and len(config.sft_sizes) == 5
    assert set(run.data.population.chatbots) == set(run.chatbots)
    assert run.simulator.model == run.backbone == "population-llama"
    assert run.data.max_sft_sessions == config.sft_sizes[-1]


def test_treatments_and_the_untuned_model_are_evaluated_and_not_trained_with(study):
    config = study(treatments={"echo-fixed": {"control": "echo", "habits": {"repeat": 0.0}}})
    run, measured = adversarial_config(config), evaluation_run_config(config)
    assert set(run.chatbots) == {"steady", "echo"} and not run.zero_shot
    assert set(measured.chatbots) == {"steady", "echo", "echo-fixed"} and set(measured.zero_shot) == {UNTUNED}
    speaker = measured.chatbots["echo-fixed"]
    chatbot = make_speaker("echo-fixed", "chatbot", speaker, run.context, engines={}, formats={}, adapters={})
    assert (
        chatbot.name == "echo-fixed" and chatbot.config.habits["repeat"] == 0.0 and chatbot.config.moves["reflect"] == 5
    )


def test_every_problem_is_reported_at_once(study):
    with pytest.raises(ConfigError) as error:
        study(
            treatments={"a": {"control": "eco"}, "b": {"control": "echo", "habits": {"repeats": 1.0}}},
            sft_sizes=[8, 4],
            simulated_sessions_per_chatbot=500,
            run={"data": {"path": "sessions.jsonl"}},
        )
    for part in ("treatments.a.control: 'eco'", "unknown habits ['repeats']", "ascending", "400", "run.data.path"):
        assert part in str(error.value)
    with pytest.raises(ConfigError, match="stedy"):
        study(chatbots=["stedy"])
    with pytest.raises(ConfigError, match=r"data\.population\.pretrain_chatbots"):
        study(run={"data": {"population": {"pretrain_chatbots": ["wram"]}}})
