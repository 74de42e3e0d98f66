"""``rlenv plan --measure``: rows of a given length, messages instead of tracebacks, predicted beside measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from launch.cli.main import app
from launch.measure import rows
from launch.measure.child import Job, Peak, run_in_child
from launch.measure.measure import Measured, device_here, measure_run
from launch.measure.models import model_here
from launch.measure.report import print_measured
from launch.measure.steps import Step
from launch.plan.hardware import GIB, parse_gpus
from launch.plan.memory import Memory, request_memory
from launch.plan.shapes import ModelShape
from launch.run.settings import load_config
from rlenv.core.errors import ConfigError
from rlenv.models.named import population_llama
from rlenv.prompting.chat_format import ChatFormat, chat_format
from trainers.sft.fit import sft_rows

CONF = Path(__file__).parents[3] / "conf"
QUICKSTART = CONF / "quickstart.yaml"
TRANSFORMERS = "engines.simulator.backend=transformers"


@pytest.fixture(scope="module")
def chat() -> ChatFormat:
    from transformers import AutoTokenizer

    return chat_format(AutoTokenizer.from_pretrained(population_llama()))


@pytest.mark.parametrize("tokens", [80, 500, 2048])
def test_rows_have_the_tokens_that_were_asked_for(chat, tokens):
    made, left_out = sft_rows(rows.sft_examples(chat, tokens, 2, "user", 1.0), chat, None)
    assert left_out == 0 and all(0.98 * tokens - 4 <= len(row["input_ids"]) <= tokens for row in made)
    reply = rows.alternatives(tokens, 10, turns=3, each=8, count=2)
    assert len(reply) == 6 and len(reply[0].prompt_ids) + len(reply[0].replies_ids[0]) == tokens
    pair = rows.pairs(tokens, 10, 1)[0]
    assert len(pair.prompt_ids) + len(pair.chosen_ids) == tokens


def test_a_seat_says_the_share_of_a_row_that_was_asked_for(chat):
    for seat in ("user", "chatbot"):
        example = rows.sft_examples(chat, 1000, 1, seat, 0.25)[0]
        ids, mask = chat.training_example("", example.messages, seat)
        assert sum(mask) / len(ids) == pytest.approx(0.25, abs=0.02)


def test_labelled_sessions_are_real_and_simulated_in_turn_and_two_share_a_context(chat):
    made = rows.labelled_sessions(chat, 100, 4)
    assert [one.real for one in made] == [True, False, True, False]
    assert [one.context_id for one in made] == ["c0", "c0", "c1", "c1"]


def test_a_row_without_room_for_words_is_refused(chat):
    with pytest.raises(ConfigError, match="--tokens 20: a row needs at least 64 tokens"):
        rows.sft_examples(chat, 20, 1, "user", 1.0)


def test_a_request_takes_weights_its_cache_and_a_layer():
    shape = ModelShape(
        hidden_size=8, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=4, intermediate_size=16, vocab_size=10,
        max_positions=64,
    )  # fmt: skip
    memory = request_memory(shape, 10, 2, 5.0)
    assert memory.weights == 2 * shape.num_parameters and memory.kv_cache == 10 * 2 * 2 * 4 * 2
    assert memory.activations == 10 * (3 * 8 + 3 * 16) * 2 and memory.runtime == 5.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpus", "8x80"], r"--gpus 8x80: --measure runs on the hardware that is here, and this machine has no GPUs"),
        (["train.keep_workers=false", "train.num_gpus=1"], r"train.num_gpus is 1, but this machine has no GPUs; set "),
        (
            ["simulator.model=meta-llama/Llama-3.2-1B-Instruct"],
            r"simulator.model: the weights of .* downloads nothing",
        ),
        (["simulator.model=nowhere/there"], r"simulator.model: the weights of nowhere/there are not on this machine"),
        (["simulator.model=small-llama"], r"simulator.model: small-llama is trained by the run itself"),
        (["--tokens", "3"], r"--tokens 3: a row needs at least"),
    ],
)
def test_what_is_not_here_is_a_message(arguments, message, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    result = CliRunner().invoke(app, ["plan", str(QUICKSTART), "--measure", *arguments])
    assert isinstance(result.exception, ConfigError), result.output
    with pytest.raises(ConfigError, match=message):
        raise result.exception


def test_rows_of_a_length_are_for_measuring():
    result = CliRunner().invoke(app, ["plan", str(QUICKSTART), "--tokens", "100"])
    assert isinstance(result.exception, ConfigError) and "--tokens is for --measure" in str(result.exception)


def test_the_hardware_that_is_here_may_be_named(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert device_here(load_config(QUICKSTART), parse_gpus("1x80")) == "cpu"  # train.num_gpus is 0
    with pytest.raises(ConfigError, match="this machine has 1 GPU;"):
        device_here(load_config(QUICKSTART), parse_gpus("2x80"))


def test_a_folder_without_weights_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"backbone: the weights of .* are not on this machine"):
        model_here("backbone", str(tmp_path), tmp_path)


def found() -> list[Measured]:
    predicted = Memory(weights=1.5 * GIB, logits=0.5 * GIB)
    step = Step("DPO", "2 rows of 10 tokens", predicted, Job(print, (), "m"))
    return [Measured("DPO", step, Peak(1.6 * GIB), 3.0 * GIB), Measured("engine chatbot", reason="no GPU is here")]


def test_the_difference_is_that_of_the_prediction_as_a_share_of_the_measurement():
    one, none = found()
    assert one.difference == pytest.approx(0.25) and none.difference is None
    made = one.to_json()
    assert made["predicted_total_gib"] == 2.0 and made["measured_gib"] == 1.6 and made["held_gib"] == 3.0
    assert none.to_json() == {"phase": "engine chatbot", "measured_gib": None, "reason": "no GPU is here"}


def test_a_report_says_what_was_not_measured_and_that_no_gpu_was():
    console = Console(width=200, record=True)
    print_measured(found(), "2 CPU cores", "quickstart", console)
    text = console.export_text()
    for part in (
        "2 rows of 10 tokens", "2.00 GiB", "+25%", "DPO, predicted: weights 1.50 GiB, logits 512 MiB",
        "engine chatbot: not measured: no GPU is here", "No GPU was measured",
    ):  # fmt: skip
        assert part in text


def fail(payload: object, worker: object) -> None:
    raise ConfigError("the settings are wrong")


def exhaust(payload: object, worker: object) -> None:
    raise MemoryError


def stop(payload: object, worker: object) -> None:
    raise SystemExit(3)


@pytest.mark.slow
def test_what_goes_wrong_in_a_process_is_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{Path(__file__).parent}:{Path(__file__).parents[3]}")
    model = str(population_llama())
    for loop, reason in ((fail, "the settings are wrong"), (exhaust, "memory ran out"), (stop, "ended with code 3")):
        assert reason in str(run_in_child(Job(loop, (), model), tmp_path / loop.__name__, 300))


@pytest.mark.slow
def test_a_phase_of_a_small_model_is_predicted_within_a_tenth(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    config = load_config(QUICKSTART, ["sft.batch_size=2", "engines={simulator: {model: auto, backend: scripted}}"])
    measured = {one.phase: one for one in measure_run(config, tokens=1024)}
    assert measured["engine simulator"].reason == "it samples without a model"
    for phase in ("SFT of the base", "DPO"):
        difference = measured[phase].difference
        assert difference is not None and abs(difference) < 0.1, phase


@pytest.mark.slow
def test_the_command_prints_json(tiny_llama, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    models = [f"simulator.model={tiny_llama}", f"backbone={tiny_llama}", TRANSFORMERS]
    result = CliRunner().invoke(app, ["plan", str(QUICKSTART), "--measure", "--tokens", "96", "--json", *models])
    assert result.exit_code == 0, result.output
    phases = {one["phase"]: one for one in json.loads(result.stdout)["phases"]}
    assert set(phases) == {"SFT of the base", "discriminators", "DPO", "engine simulator"}
    assert all(one["measured_gib"] > 0 for one in phases.values())
