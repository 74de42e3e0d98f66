"""An environment made from a run: its settings, and that its users and rewards are those of the run's models."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from itertools import pairwise
from pathlib import Path

import gymnasium as gym
import pytest
import yaml

import rlenv  # noqa: F401 (registers the envs)
from launch.chatbot.config import load_chatbot_config
from launch.run.contents import simulator_versions
from launch.run.directory import RunDirectory
from launch.run.settings import read_settings
from launch.serving.config import load_env_config
from rlenv.core.errors import ConfigError, EngineError
from rlenv.core.seeds import derive_seed
from rlenv.env import providers
from rlenv.env.ensemble import Ensemble
from rlenv.env.gym import EnvError
from rlenv.env.providers import env_parts

CONF = Path(__file__).parents[3] / "conf"
CHATBOT, USER = "rlenv/Conversation-v0", "rlenv/User-v0"
MIX = {"base": 1, "it1": 1, "it2": 2}
SAYS = ("That sounds hard.", "What happened next?", "Who knows of it?")


def env_file(folder: Path, **settings) -> Path:
    path = folder / "env.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


# -------------------------------------------------------------------------------------------- settings


def test_a_run_directory_gives_its_own_settings_and_a_file_overrides_them(finished_run, tmp_path):
    plain = load_env_config(finished_run)
    assert (plain.run, plain.ensemble, plain.rewards, plain.split) == (str(finished_run), {}, {}, "adversarial")
    assert plain.settings.env.max_turns == 3 and plain.settings.engines["simulator"].backend == "transformers"
    said = {"engines": {"simulator": {"replicas": 2}}, "env": {"max_turns": 5}}
    path = env_file(tmp_path, run=str(finished_run), ensemble=MIX, settings=said)
    changed = load_env_config(path, ["rewards={realism: 1, judge: {weight: 2}}", "settings.env.max_turns=7"])
    assert changed.rewards == {"realism": 1, "judge": {"weight": 2}} and changed.ensemble == MIX
    assert changed.settings.env.max_turns == 7
    engine = changed.settings.engines["simulator"]
    assert (engine.replicas, engine.backend, engine.max_model_len) == (2, "transformers", 1024)
    assert changed.settings.discriminator == plain.settings.discriminator


def test_every_env_file_of_conf_works_with_a_run(finished_run):
    files = [p for p in CONF.glob("*.yaml") if isinstance(read_settings(p).get("run"), str)]
    assert files
    for path in files:
        load = load_chatbot_config if "chatbot" in read_settings(path) else load_env_config
        assert load(path, [f"run={finished_run}"]).run == str(finished_run)


@pytest.mark.parametrize(
    ("settings", "overrides", "message"),
    [
        ({"ensembel": {"it1": 1}}, [], r"ensembel.*[Dd]id you mean.*ensemble"),
        ({}, ["settings.env.max_turn=3"], r"max_turn.*[Dd]id you mean.*max_turns"),
        ({"split": "test"}, [], "no split 'test'; there are adversarial, evaluation, sft"),
        ({"run": "nowhere"}, [], "nowhere: this is not a run directory"),
        ({"run": ""}, [], "no key 'run'"),
        ({"ensemble": {"it7": 1, "base": 1}}, [], r"no simulator 'it7'; there are base, it1, it2"),
        ({"ensemble": {"it1": -1}}, [], r"weights.it1: expected a finite number of 0 or more"),
        ({"users": {"it1": {"kind": "population"}}}, [], r"users.it1: the run has a simulator of that name"),
        ({"users": {"x": {"adapter": "trained"}}}, [], r"users.x.adapter: 'trained' is for a run's own chatbots"),
        ({"rewards": {"realism": 1}}, [], r"realism: defined only for an agent in seat 'user'"),
        ({"rewards": {"reelism": 1}}, [], r"reelism: no such reward; .*did you mean 'realism'"),
        ({"rewards": {"judge": 1}}, [], r"judge: needs a judge, but none is served here"),
        ({"settings": {"simulator": {"model": "small-llama"}}}, [], "the small Llama is not trained yet"),
    ],
)
def test_wrong_settings_are_env_errors_before_anything_is_started(finished_run, tmp_path, settings, overrides, message):
    import ray

    running = ray.is_initialized()
    path = env_file(tmp_path, **{"run": str(finished_run), **settings})
    with pytest.raises(EnvError, match=message):
        gym.make(CHATBOT, config=str(path), overrides=overrides)
    assert ray.is_initialized() == running


def test_a_missing_discriminator_engine_or_folder_is_reported(finished_run, tmp_path):
    for config, overrides, message in (
        (finished_run, ["rewards.realism=1", "discriminator=it5"], "no discriminator of 'it5'; there are base, it1"),
        (finished_run, ["chatbots.x={kind: engine, engine: big}"], "no engine 'big'; there are simulator"),
        (tmp_path, [], "this is not a run directory"),
        (tmp_path / "none.yaml", [], "there is no such file; expected a YAML file of settings"),
    ):
        with pytest.raises(EnvError, match=message):
            gym.make(USER, config=str(config), overrides=overrides)
    with pytest.raises(EnvError, match="config is None; give both or neither"):
        gym.make(USER, overrides=["split=null"])


def test_without_the_engines_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(providers._PROVIDERS, "config", "a_package_that_is_not_there.serving:serve_env")
    with pytest.raises(
        ConfigError, match=r"needs a_package_that_is_not_there, which is not installed; install rlenv with its engines"
    ):
        env_parts("chatbot", config="conf/env_esconv.yaml")


def test_scripted_chatbots_without_rewards_need_no_ray(finished_run):
    import ray

    running = ray.is_initialized()
    env = gym.make(USER, config=str(finished_run), overrides=["split=evaluation"])
    _, info = env.reset(seed=1)
    assert ray.is_initialized() == running
    from rlenv.data.sessions import read_sessions

    users = read_sessions(finished_run / "data" / "evaluation.jsonl.gz", neighbours="keep")
    assert info["context_id"] in {s.session_id for s in users}
    env.close()


def test_a_vector_env_of_a_run_equals_its_single_envs(finished_run):
    settings = {"config": str(finished_run), "overrides": ["split=evaluation"]}
    many, one = gym.make_vec(USER, num_envs=2, **settings), gym.make(USER, **settings)
    observations, _ = many.reset(seed=3)
    assert observations == tuple(one.reset(seed=seed)[0] for seed in (3, 4))
    assert many.step(["I feel low.", "I feel low."])[0][1] == one.step("I feel low.")[0]
    many.close()
    one.close()


# ---------------------------------------------------------------------------------------------- models


def play(env, seed: int, **options) -> list:
    """Returns the whole episode of fixed actions: observations, rewards, ends and infos."""
    steps = [env.reset(seed=seed, options=options)]
    for action in SAYS:
        if steps[-1][-1]["ended_by"] is None:
            steps.append(env.step(action))
    return steps


@pytest.mark.ray
@pytest.mark.slow
def test_trained_simulators_are_drawn_by_weight_and_reply_as_their_adapter_does_alone(finished_run, tmp_path):
    import ray

    from actors.engines.transformers_engine import TransformersEngine
    from launch.adversarial.run import make_simulator
    from launch.run.serving import Serving

    running = ray.is_initialized()
    config = str(env_file(tmp_path, run=str(finished_run), ensemble=MIX))
    env, other = gym.make(CHATBOT, config=config), gym.make(CHATBOT, config=config)
    settings = load_env_config(config).settings
    serving = Serving(settings, settings.simulator.model, tmp_path)
    engine = TransformersEngine(serving.engine_configs["simulator"])
    asyncio.run(engine.start())
    adapters = simulator_versions(RunDirectory(finished_run), settings)
    alone = {n: make_simulator(settings, serving, {"simulator": engine}, a) for n, a in adapters.items()}
    expected = Ensemble(alone, MIX)
    drawn = Counter()
    for seed in range(12):
        steps = play(env, seed)
        info, state = steps[-1][-1], env.unwrapped.core.state
        drawn[info["counterpart"]] += 1
        assert info["counterpart"] == expected.draw(seed)
        assert info["provenance"].simulator.adapter_digest == adapters[info["counterpart"]].digest
        past = state.model_copy(update={"turns": (), "end": None})
        for turn in state.turns:
            if turn.role == "user":
                said = asyncio.run(alone[info["counterpart"]].reply(past, derive_seed(seed, "user", len(past.turns))))
                assert said == turn.utterance
            past = past.model_copy(update={"turns": (*past.turns, turn)})
    assert len(drawn) == 3  # all three were heard
    assert play(env, 3) == play(other, 3)
    assert play(env, 3, simulator="it1")[-1][-1]["counterpart"] == "it1"
    env.close()
    assert play(other, 4)  # the engines are the two envs' together
    other.close()
    assert ray.is_initialized() == running
    engine.close()


@pytest.mark.ray
@pytest.mark.slow
def test_realism_in_the_users_seat_is_eq_4_of_the_runs_discriminator(finished_run, local_ray):
    from rlenv.discriminator.local import LocalDiscriminator
    from rlenv.discriminator.model import LoadedDiscriminator
    from rlenv.env.conversation import to_session

    rng = random.Random(0)
    overrides = ["rewards={realism: {weight: 2}}", "discriminator=it1"]
    env = gym.make(USER, config=str(finished_run), overrides=overrides)
    local = LocalDiscriminator(LoadedDiscriminator.load(finished_run / "it1/discriminator/main", device="cpu"))
    for seed in range(4):
        env.reset(seed=seed)
        rewards, over = [], False
        while not over:
            _, reward, terminated, truncated, info = env.step(" ".join(rng.choices(["low", "work", "I", "tired"], k=5)))
            assert info["rewards"] == {"realism": reward}
            rewards.append(reward)
            over = terminated or truncated
        session = to_session(env.unwrapped.core.state, session_id="s", source="", chatbot="")
        odds = asyncio.run(local.log_odds(session)).log_odds
        assert rewards == pytest.approx([2 * (b - a) for a, b in pairwise(odds)], abs=1e-4)
        assert len(rewards) == 3 and any(abs(r) > 1e-3 for r in rewards)
    env.close()


@pytest.mark.ray
@pytest.mark.slow
def test_a_running_ray_is_used_and_kept(finished_run, local_ray):
    import ray

    node = ray.get_runtime_context().get_node_id()
    env = gym.make(CHATBOT, config=str(finished_run))
    for seed in range(20):
        env.reset(seed=seed)
        if not env.unwrapped.core.over:  # a random model may leave before it is spoken to
            break
    env.unwrapped.fork(1)[0].close()  # holds nothing of its own
    assert env.step("Hello.")[0]
    assert ray.get_runtime_context().get_node_id() == node
    env.close()
    env.close()
    assert ray.is_initialized()
    with pytest.raises(EngineError, match="not running"):
        play(env, 2)
