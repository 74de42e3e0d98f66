"""Configurations: the paper's numbers, every file of conf/, and error messages."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from launch.run.config.run import RunConfig
from launch.run.directory import RunDirectory
from launch.run.settings import load_config, read_settings, to_dict
from rlenv.core.errors import ConfigError, RlenvError

CONF = Path(__file__).parents[3] / "conf"
RUNS = [path for path in sorted(CONF.glob("*.yaml")) if "run" not in read_settings(path)]
"""The other files configure environments."""


@pytest.mark.parametrize("path", RUNS, ids=lambda p: p.name)
def test_every_configuration_loads_and_is_the_same_after_saving(path, tmp_path):
    config = load_config(path)
    saved = tmp_path / "saved.yaml"
    saved.write_text(yaml.safe_dump(to_dict(config)))
    assert load_config(saved) == config
    assert config.out_dir and config.name


@pytest.mark.parametrize("config", [RunConfig(), load_config(CONF / "paper.yaml")], ids=["defaults", "paper.yaml"])
def test_the_papers_numbers(config):
    sft, dpo = config.sft, config.dpo  # Table 6
    assert (sft.epochs, sft.batch_size, sft.lora_rank, sft.lora_alpha, sft.learning_rate) == (1, 1, 8, 16, 5e-5)
    assert (sft.schedule, sft.warmup, sft.max_grad_norm, sft.weight_decay) == ("constant", 0, 1, 0)
    assert (dpo.epochs, dpo.batch_size, dpo.beta, dpo.learning_rate, dpo.warmup) == (1, 1, 1, 1e-5, 0.1)
    assert (dpo.max_grad_norm, dpo.weight_decay) == (1, 0)
    assert dpo.schedule == "constant_with_warmup"  # "constant" of transformers ignores a warmup
    assert (config.collect.num_contexts, config.collect.simulations_per_context) == (1000, 2)  # 4.2
    assert config.num_iterations == 3  # it1, it2, it3
    assert config.preferences.num_alternatives == 8  # 3.5
    disc = config.discriminator
    assert (disc.num_train_sessions, disc.num_validation_sessions) == (1600, 400)  # 4.3.3
    assert config.context.budget_tokens == 15_000  # Appendix A
    assert config.context.num_previous_summaries == 5
    assert "Llama-3.3-70B-Instruct" in config.simulator.model and "Llama-3.1-8B-Instruct" in config.backbone


def test_the_papers_run_fits_eight_gpus_phase_by_phase():
    config = load_config(CONF / "paper.yaml")
    assert sum(e.replicas * e.num_gpus for e in config.engines.values()) == 8
    assert config.train.num_workers * config.train.num_gpus == 8
    simulator = config.engines["simulator"]
    assert simulator.replicas * simulator.num_gpus + config.scoring.replicas * config.scoring.num_gpus <= 8


def test_an_unknown_key_is_reported_with_a_suggestion():
    with pytest.raises(ConfigError, match=r"dpo.*betta.*[Dd]id you mean.*beta"):
        load_config(None, ["dpo.betta=0.5"])
    with pytest.raises(ConfigError, match="num_iteration"):
        load_config(None, ["num_iteration=2"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("num_iterations=many", "num_iterations"),
        ("data.sft_share=0.9", "sum to 1"),
        ("dpo.beta=-1", "dpo.beta"),
        ("engines.simulator.backend=tgi", "backend"),
        ("preferences.num_alternatives=1", "num_alternatives"),
        ("env.max_turns=0", "max_turns"),
        ("collect.assignment=alphabetical", "assignment"),
        ("chatbots.a.kind=endpoint", "base_url"),
        ("chatbots.a.engine=nowhere", "nowhere"),
        ("num_iterations=-1", "num_iterations"),
    ],
)
def test_an_invalid_value_is_reported_by_its_name(override, message):
    with pytest.raises(RlenvError, match=message):
        load_config(None, [override])


def test_unreadable_files_are_reported_in_one_sentence(tmp_path):
    with pytest.raises(ConfigError, match="there is no such file"):
        load_config(tmp_path / "missing.yaml")
    for name, text in (
        ("tab.yaml", "a:\n\t- b"),
        ("list.yaml", "[1, 2]"),
        ("open.yaml", "dpo: {beta: 1"),
        ("binary.yaml", "\x00"),
    ):
        path = tmp_path / name
        path.write_text(text)
        with pytest.raises(ConfigError, match=name):
            load_config(path)
    with pytest.raises(ConfigError):
        load_config(None, ["dpo.beta"])
    empty = tmp_path / "empty.yaml"
    empty.write_text("")
    assert load_config(empty) == RunConfig()


def test_overrides_come_last_and_keep_the_rest(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("dpo: {beta: 0.2, learning_rate: 1.0e-4}\n")
    config = load_config(path, ["dpo.beta=0.7", "chatbots.echo.kind=population"])
    assert (config.dpo.beta, config.dpo.learning_rate, config.dpo.epochs) == (0.7, 1e-4, 1)
    assert list(config.chatbots) == ["echo"]


# ---------------------------------------------------------------------------------- run directory


def test_a_folder_with_a_run_of_other_settings_is_refused_with_their_names(tmp_path):
    config = load_config(None, ["seed=1", f"out_dir={tmp_path}"])
    run = RunDirectory(tmp_path)
    run.open(to_dict(config))
    run.open(to_dict(config))
    other = load_config(None, ["seed=2", "dpo.beta=0.5", f"out_dir={tmp_path}"])
    with pytest.raises(ConfigError, match=r"\(dpo.beta, seed\)"):
        run.open(to_dict(other))


def test_a_phase_is_made_once_and_appears_whole_or_not_at_all(tmp_path):
    run = RunDirectory(tmp_path)
    run.open({})
    calls = []

    def make(folder):
        calls.append(folder)
        folder.mkdir()
        (folder / "a").write_text("a")
        assert not run.has("base/thing")
        if len(calls) == 1:
            raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError):
        run.once("base/thing", make)
    assert not run.has("base/thing")
    assert run.once("base/thing", make) == run.once("base/thing", make) == tmp_path / "base" / "thing"
    assert len(calls) == 2 and (tmp_path / "base" / "thing" / "a").read_text() == "a"
    assert list(run.timings()) == ["base/thing"]


def test_half_finished_output_of_an_interrupted_run_is_removed_when_it_is_resumed(tmp_path):
    run = RunDirectory(tmp_path)
    run.open({})
    for name in ("base/adapter.partial/deep/er.partial", "base/.adapter.partial.partial", "data/kept"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "logs" / "x.partial").write_text("")
    run.open({})
    assert not list(tmp_path.rglob("*.partial")) and (tmp_path / "data" / "kept").is_dir()


def test_an_interrupted_training_keeps_its_checkpoints_when_the_run_is_resumed(tmp_path):
    run = RunDirectory(tmp_path)
    run.open({})
    checkpoint = tmp_path / "training" / "sft-adapter.partial" / "checkpoint"
    checkpoint.mkdir(parents=True)
    run.open({})
    assert checkpoint.is_dir()


def test_a_second_driver_is_refused_until_the_first_ends(tmp_path):
    run = RunDirectory(tmp_path)
    with run.locked(), pytest.raises(ConfigError, match="another driver"), RunDirectory(tmp_path).locked():
        pass
    with run.locked():
        pass
