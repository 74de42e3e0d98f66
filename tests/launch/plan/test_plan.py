"""Whole plans: the configurations of conf/ fit the hardware they are for, and what does not fit names the setting."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from launch.cli.main import app
from launch.plan.assumptions import Assumptions, assume
from launch.plan.hardware import GIB, parse_gpus
from launch.plan.plan import Plan, plan_run
from launch.plan.work import sizes
from launch.run.settings import load_config
from rlenv.core.errors import ConfigError

CONF = Path(__file__).parents[3] / "conf"
PAPER = CONF / "paper.yaml"


def planned(path: Path, gpus: str, *overrides: str) -> Plan:
    return plan_run(load_config(path, ["data.path=sessions.jsonl.gz", *overrides]), parse_gpus(gpus))


def test_the_papers_configuration_fits_eight_gpus_of_80_gib():
    plan = planned(PAPER, "8x80")
    plan.require_fit()
    for phase in plan.phases:
        assert phase.num_gpus == 8, phase.name
        assert all(one.process.memory.total <= 76 * GIB for one in phase.placed)
    sampling = {one.process.name: len(one.seats) for one in plan.phases[1].placed}
    assert sampling == {"engine simulator 0": 4, **{f"engine chatbot {i}": 1 for i in range(4)}}
    assert not plan.keeps_engines


VARIANTS = sorted((CONF / "gpus").glob("*.yaml"))


def test_there_is_a_configuration_for_each_hardware_and_family():
    names = {path.stem for path in VARIANTS} | {"llama_8x80"}  # conf/paper.yaml
    assert names == {f"{family}_{gpus}" for family in ("llama", "qwen") for gpus in ("1x24", "1x80", "8x80", "2x8x80")}


@pytest.mark.parametrize("path", VARIANTS, ids=lambda path: path.stem)
def test_a_configuration_for_gpus_passes_a_dry_run_and_fits_the_hardware_in_its_name(path):
    checked = CliRunner().invoke(app, ["adversarial", str(path), "data.path=x", "--dry-run"])
    assert checked.exit_code == 0, checked.output
    gpus = path.stem.split("_", 1)[1]
    assert f"--gpus {gpus}\n" in path.read_text()
    plan = planned(path, gpus)
    plan.require_fit()
    assert all(phase.num_gpus == plan.gpus.total for phase in plan.phases)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["sft.max_tokens=null"], r"sft: 1 row of 131,072 tokens.*set sft.max_tokens to 2\d{4} or less"),
        (["sft.shard=false"], r"sft: .*use more or larger GPUs|sft: .*set sft.shard to true"),
        (["dpo.offload_activations=false"], r"dpo: 1 row of 33,\d{3} tokens.*set dpo.offload_activations to true"),
        (["discriminator.gradient_checkpointing=false"], r"set discriminator.gradient_checkpointing to true"),
        (["discriminator.kind=likelihood"], r"set discriminator.kind to 'classifier'"),
        (["engines.chatbot.replicas=9"], r"conversations: .*finds no room; 13 GPUs are needed at once, 8x80 has 8"),
        (["train.num_workers=9"], r"training worker finds no room"),
        (
            ["engines.simulator.tensor_parallel_size=1", "engines.simulator.num_gpus=1"],
            r"engines.simulator: .*set engines.simulator.tensor_parallel_size and num_gpus to 4",
        ),
        (
            ["engines.simulator.tensor_parallel_size=3", "engines.simulator.num_gpus=3"],
            "3 does not divide the model's 64 heads",
        ),
    ],
)
def test_a_plan_that_does_not_fit_is_refused_and_names_the_setting_to_change(overrides, message):
    plan = planned(PAPER, "8x80", *overrides)
    with pytest.raises(ConfigError, match=message):
        plan.require_fit()


def test_the_setting_that_is_advised_is_enough():
    plan = planned(PAPER, "8x80", "sft.max_tokens=null")
    most = plan.problems[0].rsplit("sft.max_tokens to ")[1].split()[0]
    assert not planned(PAPER, "8x80", f"sft.max_tokens={most}").problems
    assert planned(PAPER, "8x80", f"sft.max_tokens={int(most) + 256}").problems


def test_smaller_cards_refuse_the_papers_simulator():
    with pytest.raises(ConfigError, match=r"paper does not fit 1x24:\n- sft: "):
        planned(PAPER, "1x24").require_fit()


def test_processes_that_share_a_gpu_must_fit_together():
    overrides = ["engines.simulator.num_gpus=0.4", "engines.simulator.gpu_memory_utilization=0.9"]
    plan = planned(CONF / "esconv_h100.yaml", "1x24", *overrides)
    with pytest.raises(ConfigError, match=r"share a GPU and need .*or set keep_engines to false"):
        plan.require_fit()


def test_all_alternatives_of_a_session_fit_where_the_model_is_sharded():
    planned(PAPER, "8x80", "dpo.targets=listwise").require_fit()
    with pytest.raises(ConfigError, match=r"dpo: .*GiB a GPU"):
        planned(PAPER, "8x80", "dpo.targets=listwise", "dpo.shard=false").require_fit()


REPLAY = ("dpo.targets=listwise", "dpo.replay=0.5")


def test_real_sessions_beside_the_alternatives_count_in_memory_and_time():
    without, cut = planned(PAPER, "8x80", REPLAY[0]), planned(PAPER, "8x80", *REPLAY, "dpo.replay_max_tokens=16000")
    cut.require_fit()
    before, after = without.phases[-1], cut.phases[-1]
    first, second = (phase.placed[0].process.memory for phase in (before, after))
    assert second.total == first.total  # the alternatives' layer, with its mask, is larger
    inputs = 16_000 * 80 * 8192 * 2
    assert second.host == first.host + inputs
    longer = planned(PAPER, "8x80", *REPLAY, "dpo.replay_max_tokens=40000").phases[-1].placed[0].process.memory
    assert longer.total > second.total
    row = sizes(load_config(PAPER, ["data.path=x"]), Assumptions()).row
    assert after.tokens - before.tokens == 1600 * row and after.seconds > before.seconds


def test_real_sessions_of_any_length_are_refused_with_the_setting_that_cuts_them():
    plan = planned(PAPER, "8x80", *REPLAY)
    with pytest.raises(ConfigError, match=r"real sessions of 131,072 .*set dpo.replay_max_tokens to \d+ or less"):
        plan.require_fit()
    most = int(plan.problems[0].rsplit("dpo.replay_max_tokens to ")[1].split()[0])
    assert not planned(PAPER, "8x80", *REPLAY, f"dpo.replay_max_tokens={most}").problems
    assert planned(PAPER, "8x80", *REPLAY, f"dpo.replay_max_tokens={most + 256}").problems


@pytest.mark.parametrize("further", ["row", "first"])
def test_the_further_sft_is_a_phase_whose_simulator_talks_and_is_judged_too(further):
    without, plan = planned(PAPER, "8x80"), planned(PAPER, "8x80", f"further_sft={further}")
    by_name = {phase.name: phase for phase in plan.phases}
    (added,) = by_name.keys() - {phase.name for phase in without.phases}
    found = by_name[added]
    row = sizes(load_config(PAPER, ["data.path=x"]), Assumptions()).row
    assert found.times == 1 and found.tokens == 800 * row  # 800 contexts, one epoch
    sft = by_name["SFT of the base"]
    assert found.placed[0].process.memory == sft.placed[0].process.memory
    assert [by_name[name].times for name in ("conversations", "discriminators")] == [5, 6.5]  # one simulator more
    assert plan.iteration_hours == without.iteration_hours
    more = found.gpu_hours + sum(by_name[name].gpu_hours for name in ("conversations", "discriminators"))
    assert plan.run_hours == pytest.approx(without.run_hours + more)


def test_a_configuration_for_the_cpu_says_that_no_gpu_is_used():
    with pytest.raises(ConfigError, match="no process reserves a GPU; set num_gpus"):
        planned(CONF / "quickstart.yaml", "1x24").require_fit()


def test_tokens_and_times_of_an_iteration_are_those_worked_by_hand():
    config = load_config(PAPER, ["data.path=x"])
    found = sizes(config, Assumptions(context_tokens=1000))
    assert (found.row, found.session, found.conversations) == (2200, 1200, 2000)  # 10 turns of 40 + 80
    assert found.adversarial == 1600 and found.compared == 3200  # 800 contexts x 2; two critical turns
    plan = plan_run(config, parse_gpus("8x80"), Assumptions(context_tokens=1000, start_s=0))
    sft, _, discriminators, _, dpo = plan.phases
    assert sft.tokens == 160_000 * 2200
    flops = 3 * plan.models.simulator.shape.forward_flops(sft.tokens, 2200)  # forward, backward, recomputed
    assert sft.seconds == pytest.approx(flops / (8 * 989e12 * 0.35))
    assert dpo.tokens == pytest.approx(3200 * 0.67 * (2200 + 40))  # both replies of a pair in one row
    assert discriminators.tokens == 2 * (1600 + 400) * 2200
    assert plan.iteration_hours == pytest.approx(sum(p.gpu_hours for p in plan.phases[1:]))


def test_the_command_prints_the_plan_beside_the_papers_figures_and_its_assumptions():
    result = CliRunner().invoke(app, ["plan", str(PAPER), "data.path=x", "--gpus", "8x80"])
    assert result.exit_code == 0, result.output
    for text in (
        "GPU 4-7: 1 x engine simulator, TP 4",
        "KV cache",
        "2.5",
        "55",
        "training_efficiency = 0.35",
        "TFLOP/s",
    ):
        assert text in result.output


def test_the_plan_as_json_has_memory_by_kind_and_problems():
    result = CliRunner().invoke(app, ["plan", str(PAPER), "data.path=x", "--json", "--assume", "context_tokens=500"])
    made = json.loads(result.stdout)
    assert made["fits"] and made["assumptions"]["context_tokens"] == 500
    process = made["phases"][0]["processes"][0]
    assert process["gpus"] == ["0:0"] and sum(process["gib"].values()) == pytest.approx(process["total_gib"])
    refused = CliRunner().invoke(app, ["plan", str(PAPER), "data.path=x", "--json", "--gpus", "1x24"])
    assert isinstance(refused.exception, ConfigError) and json.loads(refused.stdout)["problems"]


def test_an_unknown_assumption_is_refused():
    with pytest.raises(ConfigError, match=r"--assume: contxt_tokens: there is no such setting; .*context_tokens"):
        assume(["contxt_tokens=3"])
    with pytest.raises(ConfigError, match="expected key=value"):
        assume(["3"])
