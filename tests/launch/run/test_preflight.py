"""What is wrong with a run shows before anything is made, and a corrected setting does not cost what is finished."""

from __future__ import annotations

import dataclasses
import re
import shutil
import typing
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from launch.adversarial.algorithm import run_adversarial
from launch.chatbot.config import ChatbotRunConfig
from launch.chatbot.driver import train_chatbot
from launch.chatbot.run import check_settings
from launch.cli.main import app
from launch.run.config.run import RunConfig
from launch.run.directory import RunDirectory
from launch.run.preflight import check_ready, missing_here
from launch.run.readers import ADVERSARIAL, CHATBOT, STUDY, readers_of
from launch.run.settings import load_config, open_run
from launch.serving.config import load_env_config
from launch.serving.env import check_versions, serve_env
from launch.serving.user_endpoint import serve_user
from launch.study.config import StudyConfig
from rlenv.core.errors import ConfigError
from rlenv.models.named import population_llama

SMALL = ["simulator.model=population-llama", "backbone=population-llama", "context.budget_tokens=300"]
ENDPOINT = "kind: endpoint, base_url: 'http://127.0.0.1:1/v1', model: m"

CONF = Path(__file__).parents[3] / "conf"


def problems_of(*overrides: str) -> str:
    with pytest.raises(ConfigError) as error:
        load_config(None, overrides)
    return str(error.value)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("chatbots={hasti: {kind: population}}", "no scripted chatbot 'hasti'.*did you mean 'hasty'"),
        ("chatbots={a: {kind: population, name: hasti}}", "chatbots.a: no scripted chatbot 'hasti'"),
        (
            "chatbots={hasty: {kind: population, habits: {repeet: 0.1}}}",
            "hasty.habits: unknown habit 'repeet'",
        ),
        ("chatbots={a: {kind: endpoint, base_url: 'localhost:80', model: m}}", "chatbots.a.base_url: expected http://"),
        ("chatbots={a: {kind: callable, function: reply}}", "chatbots.a.function: expected package.module:name"),
        ("zero_shot={a: {kind: callable, function: ':reply'}}", "zero_shot.a.function: expected package.module:name"),
    ],
)
def test_a_speaker_that_cannot_exist_is_refused_with_the_other_settings(override, told):
    assert re.search(told, problems_of(override))


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("chatbots={f: {kind: callable, function: 'nomodule:reply'}}", "there is no module 'nomodule'"),
        ("chatbots={f: {kind: callable, function: 'json:lods'}}", "the module has no 'lods'.*did you mean 'loads'"),
        ("zero_shot={f: {kind: callable, function: 'json:__name__'}}", "is str, expected something callable"),
    ],
)
def test_dry_run_refuses_functions_that_cannot_be_imported(setting, told, tmp_path, monkeypatch):
    config = tmp_path / "c.yaml"
    config.write_text("{}")
    result = CliRunner().invoke(app, ["adversarial", str(config), setting, f"out_dir={tmp_path / 'r'}", "--dry-run"])
    assert isinstance(result.exception, ConfigError)
    assert re.search(told, str(result.exception))
    assert not (tmp_path / "r").exists()


def test_a_module_that_raises_when_it_is_imported_is_told_and_not_raised(tmp_path, monkeypatch):
    (tmp_path / "bot_that_breaks.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    config = load_config(None, [*SMALL, "chatbots={f: {kind: callable, function: 'bot_that_breaks:reply'}}"])
    with pytest.raises(ConfigError, match=r"chatbots\.f\.function: .*its import raises ZeroDivisionError"):
        check_ready(config)


def test_what_this_machine_lacks_is_a_warning_of_dry_run_and_an_error_of_the_run(tmp_path, monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    overrides = [
        *SMALL,
        f"out_dir={tmp_path / 'r'}",
        f"chatbots={{h: {{{ENDPOINT}, api_key_env: NO_SUCH_KEY}}, a: {{adapter: /no/chatbot}}}}",
        f"zero_shot={{z: {{{ENDPOINT}, api_key_env: NO_SUCH_KEY}}}}",
        "simulator.adapter=no-such-adapter",
        "data.path=no-such-file.jsonl",
        "engines.other.model=/no/model",
        "engines.other.max_model_len=9000",
    ]
    keys = {
        "chatbots.h.api_key_env: NO_SUCH_KEY is not set",
        "chatbots.a.adapter: /no/chatbot: expected a PEFT adapter",
        "zero_shot.z.api_key_env: NO_SUCH_KEY is not set",
        "simulator.adapter: ",
        "data.path: there is no file no-such-file.jsonl",
        "engines.other.model: there is no folder /no/model",
    }
    config = load_config(None, overrides)
    told = missing_here(config)
    assert len(told) == len(keys) and all(any(line.startswith(key) for line in told) for key in keys)
    with pytest.raises(ConfigError) as error:
        run_adversarial(config)
    assert str(error.value).splitlines() == told and not (tmp_path / "r").exists()
    path = tmp_path / "c.yaml"
    path.write_text("{}")
    result = CliRunner().invoke(app, ["adversarial", str(path), *overrides, "--dry-run"])
    assert result.exit_code == 0 and all(line.split(":")[0] in result.output for line in told)


def test_a_model_without_a_usable_chat_template_is_told_before_anything_is_made(tmp_path):
    model = tmp_path / "model"
    shutil.copytree(population_llama(), model)
    (model / "chat_template.jinja").unlink()
    config = load_config(None, [*SMALL, f"out_dir={tmp_path / 'r'}", f"simulator.model={model}"])
    with pytest.raises(ConfigError, match=r"simulator\.model: .*no chat template"):
        run_adversarial(config)
    assert not (tmp_path / "r").exists()


def test_a_finished_phase_needs_nothing_any_more(tmp_path, monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    config = load_config(
        None,
        [
            f"out_dir={tmp_path}",
            "num_iterations=0",
            "data.path=gone.jsonl",
            f"chatbots={{h: {{{ENDPOINT}, api_key_env: NO_SUCH_KEY}}}}",
        ],
    )
    assert len(missing_here(config)) == 2
    (tmp_path / "data").mkdir()
    (tmp_path / "base" / "simulated").mkdir(parents=True)
    assert missing_here(config) == []


def test_adapters_that_cannot_be_served_are_told_before_anything_starts(finished_run, tmp_path):
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    weights = run / "it1" / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    cut = "cannot be loaded: .*the file was cut off"

    config = load_env_config(run)
    check_versions(config, ["base", "it2"])
    with pytest.raises(ConfigError, match=f"the adapter 'it1' at .*{cut}"):
        check_versions(config, ["base", "it1"])
    with pytest.raises(ConfigError, match=f"the adapter 'it1' at .*{cut}"):
        serve_user(run, ["it1"])
    with pytest.raises(ConfigError, match=f"the adapter 'it1' at .*{cut}"):
        serve_env(run, ["ensemble={it1: 1}"], "chatbot")

    where, model = weights.parent, config.settings.simulator.model
    settings = [f"simulator.model={model}", f"out_dir={tmp_path / 'new'}", f"chatbots={{a: {{adapter: {where}}}}}"]
    told = missing_here(load_config(None, [*settings, f"simulator.adapter={where}"]))
    assert [line.split(": ")[0] for line in told] == ["simulator.adapter", "chatbots.a.adapter"]
    assert all("the file was cut off" in line for line in told)


def test_an_agent_in_the_users_seat_needs_no_simulator(finished_run, tmp_path):
    run = Path(shutil.copytree(finished_run, tmp_path / "run"))
    for version in ("base", "it1", "it2"):
        shutil.rmtree(run / version / "adapter")
    with pytest.raises(ConfigError, match="no simulator is trained yet"):
        serve_env(run, [], "chatbot")
    parts = serve_env(run, ["chatbots={warm: {kind: population}}"], "user")
    try:
        assert list(parts.counterparts) == ["warm"]
    finally:
        parts.close()


# ------------------------------------------------------------------------------- corrected settings


def resumed(tmp_path, finished: list[str], *overrides: str) -> None:
    """Opens a run, finishes some phases and opens it with other settings."""
    run = RunDirectory(tmp_path / "run")
    base = [*SMALL, f"out_dir={run.root}", f"chatbots={{h: {{{ENDPOINT}}}}}"]
    open_run(run, load_config(None, base), ADVERSARIAL)
    for phase in finished:
        run.path(phase).mkdir(parents=True)
    config = load_config(None, [*base, *overrides])
    open_run(run, config, ADVERSARIAL)
    assert load_config(run.root / "config.yaml") == config


SFT = ["data", "base/adapter"]
SIMULATED = [*SFT, "base/simulated"]


@pytest.mark.parametrize(
    ("finished", "override"),
    [
        ([], ["data.sft_share=0.4", "data.adversarial_share=0.45"]),
        ([], ["seed=3"]),
        (["data"], ["sft.learning_rate=1e-4"]),
        (SFT, ["simulator.sampling.top_p=0.9"]),
        (SFT, ["chatbots.h.base_url=http://127.0.0.1:2/v1"]),
        (SFT, ["chatbots.more.kind=callable", "chatbots.more.function=json:loads"]),
        (SFT, ["engines.simulator.max_num_seqs=8"]),
        ([*SFT, "models/small-llama"], ["chatbots.h.model=other"]),
        (SIMULATED, ["dpo.learning_rate=1e-6", "preferences.num_alternatives=4", "discriminator.epochs=2"]),
        (SIMULATED, ["collect.max_failed_share=0.5", "ray.num_cpus=3", "tracking.wandb=true"]),
        ([*SIMULATED, "it1/adapter"], ["zero_shot.z={kind: endpoint, base_url: 'http://h/v1', model: m}"]),
        ([*SIMULATED, "base/preferences", "it3/measures"], ["num_iterations=5", "most_tries=4"]),
        ([*SIMULATED, "base/preferences", "it1/measures"], ["num_iterations=1"]),
        (SIMULATED, ["num_iterations=0"]),
    ],
)
def test_a_setting_that_no_finished_phase_has_read_may_change(tmp_path, finished, override):
    resumed(tmp_path, finished, *override)


@pytest.mark.parametrize(
    ("finished", "override", "named"),
    [
        (["data"], ["seed=3"], "seed"),
        (["data"], ["data.min_user_turns=3"], "data.min_user_turns"),
        (SFT, ["sft.learning_rate=1e-4", "dpo.beta=0.5"], "sft.learning_rate"),
        (SFT, ["context.num_previous_summaries=2"], "context.num_previous_summaries"),
        (SFT, ["train.num_workers=2"], "train.num_workers"),
        (SIMULATED, ["simulator.sampling.top_p=0.9"], "simulator.sampling.top_p"),
        (SIMULATED, ["chatbots.h.base_url=http://127.0.0.1:2/v1"], "chatbots.h.base_url"),
        (SIMULATED, ["discriminator.num_train_sessions=8"], "discriminator.num_train_sessions"),
        (
            [*SFT, "models/small-llama"],
            ["chatbots.h.kind=callable", "chatbots.h.function=json:loads"],
            "chatbots.h.kind",
        ),
        (["z/simulated"], ["zero_shot.z={kind: endpoint, base_url: 'http://h/v1', model: m}"], "zero_shot.z"),
        ([*SIMULATED, "it2/adapter"], ["num_iterations=1"], "num_iterations"),
        ([*SIMULATED, "it1/preferences"], ["num_iterations=1"], "num_iterations"),
        ([*SIMULATED, "base/preferences"], ["num_iterations=0"], "num_iterations"),
        ([*SIMULATED, "base/acceptance"], ["most_tries=2"], "most_tries"),
    ],
)
def test_a_setting_that_a_finished_phase_has_read_is_refused_by_its_name(tmp_path, finished, override, named):
    with pytest.raises(ConfigError, match=rf"other settings \({named}\)"):
        resumed(tmp_path, finished, *override)


def test_the_refusal_says_how_to_give_the_saved_settings(tmp_path):
    with pytest.raises(ConfigError, match=r"use the same settings \(seed=0 simulator.sampling.top_p=1.0\), or use"):
        resumed(tmp_path, SIMULATED, "seed=3", "simulator.sampling.top_p=0.9")


def test_a_run_that_may_stop_can_go_on_and_not_the_other_way_round():
    assert readers_of("stop", ADVERSARIAL, "at_chance", "never") == ()
    assert "*/acceptance" in readers_of("stop", ADVERSARIAL, "never", "at_chance")


def test_a_study_takes_more_iterations_until_its_sessions_are_labelled():
    assert readers_of("run.num_iterations", STUDY, 1, 2) == ("labelled",)
    assert "adversarial/it2/*" in readers_of("run.num_iterations", STUDY, 2, 1)


def test_an_unfinished_phase_has_read_nothing(tmp_path):
    resumed(tmp_path, ["data.partial"], "seed=3")


def names_of(schema) -> set[str]:
    """The dotted names of a class's settings, and of its sections'."""
    found = set()
    hints = typing.get_type_hints(schema)
    for field in dataclasses.fields(schema):
        found.add(field.name)
        inner = next(
            (t for t in (hints[field.name], *typing.get_args(hints[field.name])) if dataclasses.is_dataclass(t)), None
        )
        found |= {f"{field.name}.{name}" for name in names_of(inner)} if inner else set()
    return found


@pytest.mark.parametrize(
    ("readers", "schema"), [(ADVERSARIAL, RunConfig), (CHATBOT, ChatbotRunConfig), (STUDY, StudyConfig)]
)
def test_every_key_of_the_readers_is_a_setting(readers, schema):
    known = names_of(schema) | {"tracking"}
    assert sorted(key for key in readers if key and "*" not in key and key not in known) == []


def test_the_settings_of_a_studys_run_are_read_by_the_phases_of_that_run():
    assert readers_of("run.sft.epochs", STUDY)[0] == "adversarial/base/adapter"
    assert readers_of("run.zero_shot.z.model", STUDY) == ("adversarial/z/*",)
    assert readers_of("run.ray.num_cpus", STUDY) == ()


# ------------------------------------------------------------------------------- training a chatbot


def chatbot_config(run, *overrides: str) -> ChatbotRunConfig:
    settings = [f"run={run}", "chatbot.adapter=trained", "settings.chatbot_sft.lora_rank=8", "chatbot.engine=simulator"]
    return load_env_config(run, [*settings, "rewards={issue_free: 1}", *overrides], ChatbotRunConfig)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("rewards={issue_fre: 1}", "no such reward.*did you mean 'issue_free'"),
        ("rewards={issue_free: {weihgt: 2}}", "issue_free: no option 'weihgt'"),
        ("rewards={'nomodule:reward': 1}", "there is no module 'nomodule'"),
        ("rewards={issue_free: {source: judge}}", "judge"),
        ("held_out=[it9]", "held_out: no simulator 'it9'"),
        ("users={u: {kind: callable, function: 'nomodule:reply'}}", "users.u.function: .*no module 'nomodule'"),
    ],
)
def test_names_that_do_not_exist_are_told_before_a_chatbot_is_trained(finished_run, tmp_path, override, told):
    config = chatbot_config(finished_run, f"out_dir={tmp_path / 'c'}", override)
    with pytest.raises(ConfigError, match=told):
        check_settings(config)
    with pytest.raises(ConfigError, match=told):
        train_chatbot(config)
    assert not (tmp_path / "c").exists()


def test_the_key_of_a_judge_at_the_end_is_asked_for_at_the_beginning(finished_run, tmp_path, monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    judge = "{judge: endpoint, base_url: 'http://h/v1', model: m, api_key_env: NO_SUCH_KEY}"
    config = chatbot_config(finished_run, f"out_dir={tmp_path / 'c'}", f"evaluation.held_out_judge={judge}")
    with pytest.raises(ConfigError, match=r"evaluation\.held_out_judge\.api_key_env: NO_SUCH_KEY is not set"):
        train_chatbot(config)
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("command", "missing"),
    [
        (["study", f"{CONF}/study.yaml", "run.simulator.adapter=/no/adapter"], "run.simulator.adapter: "),
        (["pretrain", f"{CONF}/population_llama.yaml", str(CONF)], f"OUT: {CONF} exists already"),
    ],
)
def test_each_command_that_trains_can_be_tried_dry(command, missing, tmp_path):
    checked = CliRunner().invoke(app, [*command, f"out_dir={tmp_path / 'run'}", "--dry-run"])
    assert checked.exit_code == 0, checked.output
    assert yaml.safe_load(checked.stdout)["out_dir"] == str(tmp_path / "run")
    assert missing in checked.stderr and not (tmp_path / "run").exists()
    wrong = CliRunner().invoke(app, [*command, "sed=1", "--dry-run"])
    assert wrong.exit_code == 1 and "sed" in str(wrong.exception)
