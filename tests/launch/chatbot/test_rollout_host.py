"""The rollout host, in this process: records, failures, and the simulator's faults checked by hand."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from launch.chatbot.config import ChatbotRunConfig, load_chatbot_config
from launch.chatbot.rollout_host import RolloutHost, start_host
from launch.run.cluster.connection import cluster
from rlenv.core.aio import run as run_async
from rlenv.core.errors import ConfigError, OverlongError, PhaseError
from rlenv.core.log_odds import turn_rewards
from rlenv.discriminator.local import LocalDiscriminator
from rlenv.discriminator.model import LoadedDiscriminator
from rlenv.env.conversation import to_session
from rlenv.learning.credit import CreditConfig
from rlenv.learning.rows import training_rows
from rlenv.learning.simulator_faults import FaultConfig

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.usefixtures("local_ray")]

SETTINGS: dict[str, Any] = {
    "ensemble": {"base": 1, "it1": 1},
    "discriminator": "it1",
    "rewards": {"tests.launch.toy_reward:small_letters": 1.0},
    "chatbot": {"engine": "simulator", "adapter": "trained", "sampling": {"max_tokens": 12}},
    "rl": {"num_groups": 3, "group_size": 3, "batch_size": 9, "gradient_accumulation": 1},
    "settings": {"env": {"max_turns": 3}, "simulator": {"sampling": {"max_tokens": 12}}},
}
QUANTILE = 0.4


@pytest.fixture(scope="module")
def config(finished_run, tiny_llama, tmp_path_factory) -> ChatbotRunConfig:
    """Both seats are on the engine ``simulator``; there is another, ``chatbot``."""
    path = tmp_path_factory.mktemp("conf") / "chatbot.yaml"
    other = {
        "model": str(tiny_llama), "backend": "transformers", "dtype": "float32", "num_cpus": 0.5, "threads": 1,
        "max_model_len": 1024, "max_num_seqs": 32,
    }  # fmt: skip
    settings = {**SETTINGS["settings"], "engines": {"chatbot": other}}
    path.write_text(yaml.safe_dump({**SETTINGS, "settings": settings, "run": str(finished_run)}))
    return load_chatbot_config(path)


@pytest.fixture
def host_of(tmp_path) -> Iterator[Callable[[ChatbotRunConfig], RolloutHost]]:
    """Returns a function that makes hosts; they are closed at the end of the test."""
    hosts: list[RolloutHost] = []

    def make(config: ChatbotRunConfig) -> RolloutHost:
        hosts.append(RolloutHost(config, str(tmp_path / "run")))
        return hosts[-1]

    yield make
    for host in hosts:
        host.close()


@pytest.fixture(scope="module")
def validation(finished_run) -> Iterator[list[tuple[float, ...]]]:
    """Writes log-odds of simulated sessions beside it1's discriminator, as its training does."""
    rng = np.random.default_rng(0)
    sessions = [tuple(np.cumsum([0.0, *rng.normal(size=5)]).tolist()) for _ in range(40)]
    file = finished_run / "it1" / "discriminator" / "main" / "validation.json"
    rows = [
        {"session_id": str(i), "context_id": str(i), "real": bool(i % 2), "log_odds": s, "num_turns": 5}
        for i, s in enumerate(sessions)
    ]
    file.write_text(json.dumps(rows))
    yield sessions[::2]
    file.unlink()


@pytest.fixture(scope="module")
def judged(config, validation, local_ray, tmp_path_factory) -> Iterator[RolloutHost]:
    """A host that gives lower weights where the simulator was faulty; the chatbot is on an engine of its own."""
    changes = {
        "faults": FaultConfig(quantile=QUANTILE, weight=0.25),
        "chatbot": replace(config.chatbot, engine="chatbot"),
    }
    host = RolloutHost(replace(config, **changes), str(tmp_path_factory.mktemp("judged")))
    yield host
    host.close()


def test_a_round_has_groups_of_one_context_and_simulator_and_is_collected_once(config, host_of, finished_run) -> None:
    adapter = str(finished_run / "it2" / "adapter")
    host = host_of(config)
    groups = host.round(5, adapter)
    assert [group.num_failed for group in groups] == [0] * 3
    assert sum(len(group.trajectories) for group in groups) > 6  # some users leave before the chatbot speaks
    for group in groups:
        assert {t.provenance.context_id for t in group.trajectories} == {group.group_id}
        assert {t.adapter.digest for t in group.trajectories} == {group.trajectories[0].adapter.digest}
        assert not group.turn_weights and all(sum(t.action_mask) for t in group.trajectories)
    _, counts = training_rows(groups, CreditConfig())
    assert counts["conversations"] > 6 and counts["failed"] == 0
    [folder] = (Path(host._root) / "rounds").iterdir()
    before = folder.stat().st_mtime_ns
    again = RolloutHost(config, str(host._root))
    assert again.round(5, adapter) == groups and folder.stat().st_mtime_ns == before
    again.close()
    assert host.round(6, adapter) != groups


def test_too_many_failed_conversations_stop_the_run_and_failures_have_no_reward(config, host_of, finished_run) -> None:
    host = host_of(replace(config, rewards={"user_actions": 1.0}))  # which language models do not label
    with pytest.raises(PhaseError, match=r"1 of 9 conversations failed \({'data': 1}\).*source: judge"):
        host.round(0, str(finished_run / "it2" / "adapter"))
    some = host_of(replace(config, rewards={"user_actions": 1.0}, max_failed_share=1.0))
    groups = some.round(0, str(finished_run / "it2" / "adapter"))
    assert [(len(group.trajectories), group.num_failed) for group in groups] == [(0, 3)] * 3


def test_messages_that_a_faulty_simulator_answered_are_masked(judged, finished_run, validation) -> None:
    groups = judged.round(0, str(finished_run / "it2" / "adapter"))
    threshold = np.quantile(np.concatenate([np.diff(s) for s in validation]), QUANTILE)
    assert len(np.concatenate([turn_rewards(s) for s in validation])) == 100
    loaded = LoadedDiscriminator.load(finished_run / "it1" / "discriminator" / "main")
    local = LocalDiscriminator(loaded, lambda session: "")
    [folder] = (Path(judged._root) / "rounds").iterdir()
    states = {r.episode.episode_id: r.state for r in judged._records.read_folder(folder)}
    seen = []
    for group in groups:
        for trajectory, weights in zip(group.trajectories, group.turn_weights, strict=True):
            session = to_session(states[trajectory.episode_id], session_id="s", source="t", chatbot="c")
            earned = turn_rewards(run_async(local.log_odds(session)).log_odds)
            answered = [m.role for m in session.messages].index("assistant")
            answers = earned[answered:]  # the user opens or the chatbot does: who opens is not answered
            wanted = [0.25 if reward < threshold else 1.0 for reward in answers]
            assert list(weights)[: len(wanted)] == wanted and set(weights[len(wanted) :]) <= {1.0}
            seen += wanted
    assert set(seen) == {0.25, 1.0}


def test_a_conversation_too_long_for_the_discriminator_keeps_its_weights_and_the_round_continues(
    judged, finished_run, monkeypatch
) -> None:
    adapter = str(finished_run / "it2" / "adapter")
    weighed = judged.round(0, adapter)
    scored = type(judged._served.discriminator).log_odds
    long = weighed[0].trajectories[0].episode_id

    async def log_odds(self, session, branches=()):
        if session.session_id == long:
            raise OverlongError(f"session {long}: too long")
        return await scored(self, session, branches)

    monkeypatch.setattr(type(judged._served.discriminator), "log_odds", log_odds)
    again = judged.round(0, adapter)
    assert set(again[0].turn_weights[0]) == {1.0} and len(again[0].turn_weights[0]) == len(weighed[0].turn_weights[0])
    assert again[0].turn_weights[1:] == weighed[0].turn_weights[1:] and again[1:] == weighed[1:]


@pytest.mark.exhaustive  # a killed actor and the calls to it: actors/test_supervision.py
@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "silent"])
def test_a_host_that_is_killed_or_silent_in_a_round_gives_the_same_round_as_an_undisturbed_one(
    config, finished_run, tmp_path, fault
) -> None:
    adapter = str(finished_run / "it2" / "adapter")
    with cluster(config.settings.ray), ThreadPoolExecutor() as threads:
        host = start_host(replace(config, answer_timeout_s=20.0), tmp_path / "killed")
        expected = host.ask("round", 5, adapter)
        shutil.rmtree(tmp_path / "killed" / "rounds")  # a recorded round is read
        first = host.pid
        groups = threads.submit(host.ask, "round", 5, adapter)
        time.sleep(0.3)
        os.kill(first, fault)
        assert groups.result(timeout=200) == expected
        assert host.restarts == 1 and host.pid != first
        host.close()


def test_settings_that_the_host_refuses_raise_its_own_error(config, tmp_path) -> None:
    wrong = replace(config, discriminator="it9", faults=FaultConfig(quantile=0.1))
    with cluster(config.settings.ray), pytest.raises(ConfigError, match=r"rollout host: .*no discriminator of 'it9'"):
        start_host(wrong, tmp_path / "refused")


def test_faults_without_reference_sessions_are_reported(config, host_of, finished_run) -> None:
    with pytest.raises(ConfigError, match=r"no discriminator of 'it9'"):
        host_of(replace(config, discriminator="it9", faults=FaultConfig(quantile=0.1))).start()
