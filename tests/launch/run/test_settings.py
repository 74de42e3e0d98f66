"""Settings from files: all problems of a file at once, token budgets that fit each other, and older runs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from launch.chatbot.config import ChatbotRunConfig, load_chatbot_config
from launch.run.config.run import RunConfig
from launch.run.directory import RunDirectory
from launch.run.settings import load_config, open_run, read_settings, to_dict, typed
from launch.serving.config import EnvConfig, load_env_config
from launch.study.config import StudyConfig, load_study
from rlenv.core.errors import ConfigError
from rlenv.core.settings import Settings
from rlenv.core.types import Sampling
from rlenv.data.summaries import SummaryConfig

ROOT = Path(__file__).parents[3]
CONF = sorted((ROOT / "conf").glob("*.yaml"))
OLDER = Path(__file__).parent / "older_run.yaml"
"""config.yaml of a run that was made before settings were pydantic dataclasses."""
LONG = {"discriminator.max_tokens": 8192, "engines.simulator.max_model_len": 4096}


def problems_of(*overrides: str, path: Path | None = None) -> list[str]:
    with pytest.raises(ConfigError) as error:
        load_config(path, overrides)
    return str(error.value).splitlines()


def test_problems_in_different_sections_are_reported_together_each_with_its_key(tmp_path):
    path = tmp_path / "wrong.yaml"
    path.write_text(
        """
        dpo: {betta: 0.5, learning_rate: 0}
        sft: {schedule: liner}
        data: {sft_share: 0.9}
        engines: {simulator: {replicas: two}}
        chatbots: {helper: {kind: endpoint}, other: {engine: nowhere}}
        discriminator: {max_tokens: 8192}
        """
    )
    problems = problems_of(path=path)
    for key, told in {
        "dpo.betta": "there is no such setting; .*did you mean 'beta'",
        "dpo.learning_rate": "expected above 0, got 0",
        "sft.schedule": "expected 'constant', .*, got 'liner'; did you mean 'linear'",
        "data.sft_share": r"the three shares must sum to 1, got 0\.9",
        "engines.simulator.replicas": "expected a whole number, got 'two'",
        "chatbots.helper.base_url": "a speaker of kind endpoint needs one",
        "chatbots.helper.model": "a speaker of kind endpoint needs one",
        "chatbots.other.engine": "no engine 'nowhere'; there are simulator",
        "discriminator.max_tokens": "8192 leaves no room",
    }.items():
        assert any(re.match(rf".*wrong\.yaml: {re.escape(key)}: {told}", problem) for problem in problems), key
    assert len(problems) == 9


def test_numbers_may_be_written_with_an_exponent(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text('dpo: {learning_rate: 1e-3, beta: "5e-1"}\nsft: {learning_rate: 2}\n')
    config = load_config(path, ["chatbot_sft.learning_rate=3e-4"])
    assert (config.dpo.learning_rate, config.dpo.beta) == (1e-3, 0.5)
    assert (config.sft.learning_rate, config.chatbot_sft.learning_rate) == (2.0, 3e-4)


@pytest.mark.parametrize("override", ["dpo.beta=.nan", "dpo.beta=.inf", "dpo.beta=true", "seed=0.5", "seed=null"])
def test_a_value_that_is_not_a_number_is_refused(override):
    (problem,) = problems_of(override)
    assert problem.startswith(f"defaults: {override.split('=')[0]}: expected")


@pytest.mark.parametrize("empty", ["data.path=", "data.path= ", "data.path", "simulator.adapter=", "dpo.beta="])
def test_a_setting_without_a_value_is_refused_and_null_is_the_way_to_say_none(empty, tmp_path):
    (problem,) = problems_of(empty)
    key = empty.strip().rstrip("=")
    assert problem.startswith(f"{key}: it has no value") and f"{key}=null" in problem
    section, _, name = key.partition(".")
    path = tmp_path / "c.yaml"
    path.write_text(f"seed: 1\n{section}:\n  {name}:\n")
    (problem,) = problems_of(path=path)
    assert "at line 3" in problem and f"{name}: it has no value" in problem
    path.write_text("data: {path: null}")
    assert load_config(path, ["simulator.adapter=null"]).data.path is None


def test_all_settings_without_a_value_are_told_at_once():
    assert [p.split(":")[0] for p in problems_of("data.path=", "seed", "=3", "dpo.=1")] == [
        "data.path", "seed", "=3", "dpo.=1",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "value", ["exp #1", "007", "yes", "off", "a: b", "1_000", "12:30", "12e4567", "0x10", "- a", "*x"]
)
def test_text_is_taken_as_it_is_written_on_the_command_line_and_in_a_file(value, tmp_path):
    assert load_config(None, [f"name={value}", f"out_dir={value}"]).name == value
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump({"name": value, "out_dir": value}))  # as a run's settings are saved
    assert load_config(path) == load_config(None, [f"name={value}", f"out_dir={value}"])
    if value.isalnum():
        path.write_text(f"name: {value}")
        assert load_config(path).name == value


@pytest.mark.parametrize(("value", "shown"), [("1.10", "1.1"), ("true", "true")])
def test_a_value_that_text_would_alter_is_refused_and_taken_in_quotation_marks(value, shown):
    assert problems_of(f"name={value}") == [
        f"defaults: name: expected text, got {shown}; write it in quotation marks, inside the shell's"
    ]
    assert load_config(None, [f"name='{value}'"]).name == value


def test_words_for_true_and_numbers_of_another_form_are_read_where_the_setting_is_of_that_type():
    config = load_config(None, ["keep_engines=yes", "seed=1_000", "dpo.beta=1e-3", "discriminator.use_context=off"])
    assert (config.keep_engines, config.seed, config.dpo.beta) == (True, 1000, 0.001)
    assert config.discriminator.use_context is False


@pytest.mark.parametrize("key", ["data.path", "simulator.adapter", "out_dir", "chatbots.c.base_url"])
def test_an_empty_text_is_no_name_or_path(key):
    assert f"defaults: {key}: expected a text that is not empty, got ''" in problems_of(f"{key}=''")


def test_a_value_in_brackets_that_is_not_closed_is_refused_by_its_key():
    (problem,) = problems_of("simulator.sampling={temperature: 1")
    assert problem.startswith("simulator.sampling: a value in brackets or quotation marks is read as YAML")


def test_a_key_that_stands_twice_in_a_file_is_refused(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("dpo: {beta: 1}\nseed: 1\ndpo: {epochs: 1}\n")
    assert "at line 3: dpo stands there twice" in problems_of(path=path)[0]


def test_a_section_that_is_not_a_mapping_is_refused():
    assert problems_of("dpo=3") == ["defaults: dpo: expected settings as key: value, got 3"]


def test_how_replies_are_sampled_is_checked_like_other_settings():
    problems = problems_of("simulator.sampling={temperature: .inf, top_p: 2, top_k: -1, max_tokens: 0, top: 1}")
    assert [problem.split(": ")[1].rpartition(".")[2] for problem in problems] == [
        "temperature", "top_p", "top_k", "max_tokens", "top",
    ]  # fmt: skip
    (problem,) = problems_of("simulator.sampling.temperature=true")
    assert problem == "defaults: simulator.sampling: expected numbers, got true or false for temperature"


def test_sampling_fields_of_one_request_are_not_settings_of_a_speaker():
    assert problems_of("simulator.sampling.seed=3") == [
        "defaults: simulator.sampling: seed cannot be set for all replies; "
        "there are max_tokens, temperature, top_k, top_p"
    ]
    assert to_dict(RunConfig())["simulator"]["sampling"] == {
        "temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_tokens": 256,
    }  # fmt: skip


def test_the_settings_of_a_run_can_be_read_without_torch():
    modules = "actors.engines.config, " + ", ".join(f"trainers.{n}.config" for n in (
        "sft", "dpo", "pretrain", "discriminator", "chatbot_rl",
    ))  # fmt: skip
    code = f"import sys, {modules}, launch.chatbot.config, launch.study.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


# ------------------------------------------------------------------------------- rules across sections


@pytest.mark.parametrize(
    ("overrides", "keys", "way_out"),
    [
        (["discriminator.max_tokens=8192"],
         ["discriminator.max_tokens", "context.budget_tokens"], "use_context to false"),
        (["engines.simulator.max_model_len=15200"],
         ["engines.simulator.max_model_len", "context.budget_tokens", "simulator.sampling.max_tokens"], "raise it"),
        (["engines.b={model: m}", "chatbots.c.engine=b"],
         ["engines.b.max_model_len", "context.budget_tokens", "chatbots.c.sampling.max_tokens"], "lower context"),
        (["engines.b={model: m}", "zero_shot.z.engine=b"],
         ["engines.b.max_model_len", "context.budget_tokens", "zero_shot.z.sampling.max_tokens"], "lower context"),
        (["sft.max_tokens=512"], ["sft.max_tokens", "context.budget_tokens"], "set it to null"),
        (["chatbot_sft.max_tokens=512", "chatbots.c.adapter=trained"],
         ["chatbot_sft.max_tokens", "context.budget_tokens"], "set it to null"),
        (["engines.simulator.max_loras=0"], ["engines.simulator.max_loras"], "set 1 or more"),
        (["sft.lora_rank=16"], ["engines.simulator.max_lora_rank", "sft.lora_rank"], "16) or more, got 8"),
        (["chatbot_sft.lora_rank=16", "chatbots.c.adapter=trained"],
         ["engines.simulator.max_lora_rank", "chatbot_sft.lora_rank"], "16) or more, got 8"),
        (["engines.b={model: m, max_loras: 0, max_model_len: 32768}", "chatbots.c={engine: b, adapter: a/folder}"],
         ["chatbots.c.adapter", "engines.b.max_loras"], "set 1 or more"),
        (["dpo.blocks_from=4096", "train.num_gpus=0"], ["dpo.blocks_from", "train.num_gpus"], "set it to null"),
    ],
)  # fmt: skip
def test_incompatible_settings_are_refused_with_both_keys_and_a_fix(overrides, keys, way_out):
    (problem,) = problems_of(*overrides)
    assert all(key in problem for key in keys) and way_out in problem


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["discriminator.max_tokens=8192", "discriminator.use_context=false"],
        ["discriminator.max_tokens=8192", "context.budget_tokens=8000"],
        ["engines.b={model: m}", "chatbots.c={engine: b, sees_context: false}"],
        ["engines.b={model: m, max_loras: 0, max_model_len: 32768}", "chatbots.c.engine=b"],
        ["chatbot_sft.max_tokens=512", "chatbots.c={adapter: trained, sees_context: false}"],
        ["sft.lora_rank=16", "engines.simulator.max_lora_rank=16"],
    ],
)
def test_settings_that_fit_each_other_load(overrides):
    load_config(None, overrides)


def test_the_run_of_a_study_has_the_same_rules(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text("sft_sizes: []\nrun: {discriminator: {max_tokens: 8192}}")
    with pytest.raises(ConfigError, match=r"(?s)sft_sizes.*run\.discriminator\.max_tokens: 8192 leaves no room"):
        load_study(path)


def test_a_chatbots_round_must_divide_into_steps_and_its_engine_must_take_its_adapter(tmp_path):
    raw = {
        "run": "r",
        "rewards": {"issue_free": 1},
        "chatbot": {"engine": "simulator"},
        "rl": {"num_groups": 3},
        "settings": {"chatbot_sft": {"lora_rank": 16}},
    }
    with pytest.raises(ConfigError) as error:
        typed(ChatbotRunConfig, [raw], "c.yaml")
    assert "a round has 3 x 8 = 24 conversations" in str(error.value)
    assert "settings.engines.simulator.max_lora_rank: expected settings.chatbot_sft.lora_rank (16)" in str(error.value)


# ---------------------------------------------------------------------------------- runs made before


def load(path: Path) -> Settings:
    """Returns the settings of any file of conf/, without the run that an environment's names."""
    raw = read_settings(path)
    if "chatbot" in raw or isinstance(raw.get("run"), str):
        return typed(ChatbotRunConfig if "chatbot" in raw else EnvConfig, [raw], path)
    return load_study(path) if "run" in raw else load_config(path)


@pytest.mark.parametrize("path", CONF, ids=lambda p: p.name)
def test_every_file_of_conf_is_saved_as_plain_values_that_read_back_equal(path):
    config = load(path)
    saved = yaml.safe_load(yaml.safe_dump(to_dict(config)))
    assert saved == to_dict(config) and typed(type(config), [saved], path) == config


def test_the_settings_of_an_older_run_load_and_are_saved_as_they_were():
    saved, again = yaml.safe_load(OLDER.read_text()), to_dict(load_config(OLDER))

    def kept(values, old):
        """Returns ``values`` without the settings that came later."""
        return {k: kept(values[k], v) if isinstance(v, dict) else values[k] for k, v in old.items()}

    assert kept(again, saved) == saved


def test_a_run_without_newer_settings_is_resumed_and_one_with_other_settings_is_not(tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.root.mkdir()
    (run.root / "config.yaml").write_text(OLDER.read_text())
    config = load_config(OLDER)
    open_run(run, config)
    with pytest.raises(ConfigError, match=r"other settings \(seed\)"):
        open_run(run, replace(config, seed=7))


def test_a_run_with_the_former_default_of_batch_invariant_is_resumed(tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.root.mkdir()
    (run.root / "config.yaml").write_text(OLDER.read_text())
    config = load_config(OLDER)
    assert config.engines["simulator"].batch_invariant is True  # as it was saved
    engine = replace(config.engines["simulator"], batch_invariant=None)
    open_run(run, replace(config, engines={"simulator": engine}))
    other = replace(config.engines["simulator"], batch_invariant=False)
    with pytest.raises(ConfigError, match=r"other settings \(engines.simulator.batch_invariant\)"):
        open_run(run, replace(config, engines={"simulator": other}))


def test_former_names_of_settings_are_read_as_their_new_names(tmp_path):
    former = {
        "run": "r",
        "rewards": {"issue_free": 1},
        "chatbot": {"engine": "simulator"},
        "measuring": {"every": 3},
        "rl": {"clip_low": 0.1, "clip_high": 0.3, "ratio": "sequence"},
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(former))
    config = typed(ChatbotRunConfig, [read_settings(path)], path)
    assert (config.rl.epsilon, config.rl.epsilon_high, config.evaluation.every) == (0.1, 0.3, 3)
    assert config.rl.importance_sampling_level == "sequence"
    open_run(RunDirectory(tmp_path), config)  # the saved ones have the former names


def test_a_run_with_token_budgets_that_are_refused_today_is_resumed(finished_run, tmp_path):
    begun = [f"{key}={value}" for key, value in LONG.items()]
    assert len(problems_of(*begun, f"out_dir={tmp_path}")) == 2
    (tmp_path / "config.yaml").write_text("{}")
    load_config(None, [*begun, f"out_dir={tmp_path}"])
    for loader in (load_env_config, load_chatbot_config):
        path = tmp_path / "env.yaml"
        chatbot = {"rewards": {"issue_free": 1}, "chatbot": {"engine": "simulator"}}
        raw = {"run": str(finished_run), "settings": {"discriminator": {"max_tokens": 8192, "use_context": True}}}
        path.write_text(yaml.safe_dump(raw | (chatbot if loader is load_chatbot_config else {})))
        assert loader(path).settings.discriminator.max_tokens == 8192


# ------------------------------------------------------------------------- settings named in messages

SCHEMAS = (RunConfig, ChatbotRunConfig, StudyConfig)
TOP = sorted({name for schema in SCHEMAS for name in schema.__pydantic_fields__})
NAMED = re.compile(rf"(?<![\w./-])((?:{'|'.join(TOP)})(?:\.[\w*]+)+)")
ADVISED = re.compile(r"\b(?:set|raise|lower|loosen|increase)\s+(?:\w+\.)*(\w*_\w+)")
NO_SETTINGS = {"ray.init"}


def sentences() -> Iterator[tuple[str, str]]:
    """Yields the texts of the source with a blank in them, and where; what an f-string inserts is a ``*``."""
    for path in sorted(
        p for package in ("rlenv", "actors", "trainers", "launch") for p in (ROOT / package).rglob("*.py")
    ):
        parts: set[int] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            text = ""
            if isinstance(node, ast.Expr):  # a docstring
                parts.add(id(node.value))
            elif isinstance(node, ast.JoinedStr):
                parts |= {id(part) for part in node.values}
                text = "".join(str(p.value) if isinstance(p, ast.Constant) else "*" for p in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
                text = node.value
            if " " in text:
                yield f"{path.relative_to(ROOT)}:{node.lineno}", text  # type: ignore[attr-defined]


def exists(schema: Any, path: list[str]) -> bool:
    """Returns whether there is a setting at the dotted path; ``*`` stands for any name or part of one."""
    fields = getattr(schema, "__pydantic_fields__", None)
    if not path:
        return True
    if fields is None:
        inside = [part for part in get_args(schema) if part is not type(None)]
        if getattr(schema, "__origin__", None) is dict:
            return exists(inside[-1], path[1:])
        return any(exists(part, path) for part in inside)
    pattern = re.compile(re.escape(path[0]).replace(r"\*", r"\w+"))
    return any(pattern.fullmatch(name) and exists(info.annotation, path[1:]) for name, info in fields.items())


def all_settings(schema: type = Settings) -> Iterator[type]:
    for below in schema.__subclasses__():
        yield below
        yield from all_settings(below)


def test_every_setting_that_a_message_names_exists():
    assert SummaryConfig in all_settings()  # of no run, and advised all the same
    known = {name for schema in all_settings() for name in schema.__pydantic_fields__} | {*Sampling.model_fields}
    missing, seen = [], 0
    for where, text in sentences():
        for name in set(NAMED.findall(text)) - NO_SETTINGS:
            seen += 1
            path = name.rstrip(".").split(".")
            if not any(exists(schema, path) for schema in SCHEMAS):
                missing.append(f"{where}: {name}")
        missing += [f"{where}: {name}" for name in ADVISED.findall(text) if name not in known]
    assert missing == [] and seen > 20


def test_the_search_for_settings_in_messages_finds_one_that_does_not_exist():
    (name,) = NAMED.findall("sample more alternatives or loosen preferences.keep")
    assert not exists(RunConfig, name.split("."))
    assert exists(RunConfig, ["engines", "*", "max_model_len"]) and exists(StudyConfig, ["run", "data", "path"])
    assert exists(ChatbotRunConfig, ["settings", "engines", "*", "num_*s"])
    assert ADVISED.findall("set end_of_session to a special token") == ["end_of_session"]


def test_a_run_that_was_started_with_a_former_default_is_resumed_with_it_unless_its_settings_say_otherwise(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text(f"out_dir: {tmp_path / 'run'}\n")
    assert load_config(path).discriminator.max_tokens == 32768
    (tmp_path / "run").mkdir()
    saved = to_dict(load_config(path))
    saved["discriminator"]["max_tokens"] = 8192
    saved["engines"]["simulator"]["max_model_len"] = 4096
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(saved))
    config = load_config(path)
    assert (config.discriminator.max_tokens, config.engines["simulator"].max_model_len) == (8192, 4096)
    open_run(RunDirectory(tmp_path / "run"), config)
    assert load_config(path, ["discriminator.max_tokens=9000"]).discriminator.max_tokens == 9000
