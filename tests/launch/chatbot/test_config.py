"""Wrong settings of a chatbot's training are reported before anything starts, all of them at once."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import yaml

from launch.chatbot import run as chatbot_run
from launch.chatbot.config import load_chatbot_config
from launch.chatbot.phases import Stage, refresh_settings, refresh_simulator, stages
from launch.chatbot.run import ChatbotRun, check_room, groups_of_users
from rlenv.core.errors import ConfigError
from rlenv.core.types import Adapter

GOOD = {
    "ensemble": {"base": 1, "it1": 2},
    "held_out": ["it2", "people"],
    "users": {"people": {"kind": "population"}},
    "rewards": {"issue_free": 1},
    "chatbot": {"engine": "simulator", "adapter": "trained"},
}


@pytest.fixture
def load(finished_run, tmp_path):
    """Returns a loader of the good settings with overrides."""

    def load(*overrides: str, **changes):
        path = tmp_path / "chatbot.yaml"
        path.write_text(yaml.safe_dump({"run": str(finished_run), **GOOD, **changes}))
        return load_chatbot_config(path, overrides)

    return load


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("chatbot.kind=population", "chatbot: expected kind engine with an adapter to start from"),
        ("chatbot.engine=chat", "chatbot.engine: no engine 'chat' in settings.engines; there are simulator"),
        ("chatbot.sampling.top_p=0.9", "chatbot.sampling: expected top_p 1 and top_k 0"),
        ("chatbot.sampling.temperature=0.7", r"expected that of the loss, rl.temperature = 1.0, got 0.7"),
        ("rewards=null", "rewards"),
        ("ensemble.it2=1", "held_out: 'it2' has a weight in ensemble"),
        ("split=evaluation", "evaluation.split: the chatbot is trained on evaluation; choose another"),
        ("evaluation.split=test", "evaluation.split: no split 'test'"),
        ("alternate_every=-1", "alternate_every: expected 0 or more"),
        ("refresh.weight=0", "refresh.weight: expected above 0, got 0"),
        ("rl.group_size=1", "rl.group_size: expected 2 or more, got 1"),
        ("users.x.adapter=trained", "users.x.adapter: 'trained' is for a run's own chatbots"),
        ("rl.learning_rat=1", "rl.learning_rat: .*did you mean 'learning_rate'"),
        ("run=nowhere", "nowhere: this is not a run directory"),
    ],
)
def test_a_wrong_setting_is_reported(load, override, expected) -> None:
    with pytest.raises(ConfigError, match=expected):
        load(override)


def test_all_problems_are_reported_together(load) -> None:
    with pytest.raises(ConfigError, match=r"(?s)alternate_every.*top_p 1.*chatbots: these are counterparts of"):
        load("chatbot.sampling.top_p=0.5", "alternate_every=-2", "chatbots.x.kind=population")


def test_groups_are_named_by_whether_the_chatbot_is_trained_with_them(load) -> None:
    groups = groups_of_users(load())
    assert [(users.name, users.kind) for users, _ in groups] == [
        ("training", "training"), ("it2", "held_out"), ("people", "population"),
    ]  # fmt: skip
    assert groups[0][1] == {"base": 1.0, "it1": 2.0} and groups[2][1] == {"people": 1.0}
    with pytest.raises(ConfigError, match="held_out: no simulator 'it9'; there are base, it1, it2, people"):
        groups_of_users(load("held_out=[it9]"))
    with pytest.raises(ConfigError, match="'it2' is trained with"):
        groups_of_users(load(ensemble={}))


def test_stages_end_where_the_simulator_is_refreshed(load) -> None:
    config = load("rl.num_rounds=5")
    assert stages(config.rl.num_rounds, config.alternate_every) == [Stage(1, 0, 5)]
    assert stages(config.rl.num_rounds, 2) == [Stage(1, 0, 2), Stage(2, 2, 2), Stage(3, 4, 1)]


def test_a_refresh_starts_from_the_newest_simulator_and_the_new_chatbot(load, finished_run, tmp_path) -> None:
    config = load("settings.backbone=a/model", out_dir=str(tmp_path / "run"))
    chatbot = Adapter(name="rl1", path="/a/chatbot", digest="d")
    nested = refresh_settings(ChatbotRun.of(config), 1, chatbot)
    assert nested.simulator.adapter == str((finished_run / "it2" / "adapter").resolve())
    assert nested.num_iterations == 1 and nested.chatbots["chatbot"].adapter == "/a/chatbot"
    assert nested.data == config.settings.data and nested.out_dir == str(tmp_path / "run" / "refresh1")
    users = {**config.users, "refresh1": replace(config.chatbot, adapter="/a/refresh1")}
    later = refresh_settings(ChatbotRun.of(config).changed(users=users), 2, chatbot)
    assert later.simulator.adapter == "/a/refresh1"


def test_a_refreshed_simulator_joins_the_ensemble(load, finished_run, tmp_path) -> None:
    config = load(f"settings.backbone={tmp_path}", "refresh.weight=3", out_dir=str(tmp_path / "run"))
    run = ChatbotRun.of(config)
    shutil.copytree(finished_run / "it1", run.directory.path("refresh1/it1"))
    run.directory.path("refresh1/it1/measures").mkdir()  # Algorithm 1 is finished
    refreshed = refresh_simulator(run, 1, Adapter(name="rl1", path=str(tmp_path / "rl1"), digest="0" * 64))
    assert refreshed.config.ensemble == {"base": 1.0, "it1": 2.0, "refresh1": 3.0}
    user = refreshed.config.users["refresh1"]
    assert (user.engine, user.adapter) == ("simulator", str(run.directory.path("refresh1/it1/adapter")))
    assert refreshed.config.users["people"] == config.users["people"]


def test_engines_and_learner_must_fit_in_the_cluster_together(load, monkeypatch) -> None:
    config = load("settings.train.num_cpus=2")
    monkeypatch.setattr(chatbot_run.ray, "cluster_resources", lambda: {"CPU": 2.0})
    with pytest.raises(ConfigError, match=r"engines need 0.5 CPU, the learner needs 2, and the cluster has 2;"):
        check_room(config)
    monkeypatch.setattr(chatbot_run.ray, "cluster_resources", lambda: {"CPU": 2.5})
    check_room(config)
