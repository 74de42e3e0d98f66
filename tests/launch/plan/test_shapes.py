"""Shapes of models: parameters, adapters, caches and operations, against published figures and sums worked by hand."""

from __future__ import annotations

import json

import pytest

from launch.plan.shapes import ModelShape, find_model, known_models, shape_from_config
from rlenv.core.errors import ConfigError
from rlenv.models.named import population_llama

TINY = ModelShape(
    hidden_size=8, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=4, intermediate_size=16, vocab_size=10,
    max_positions=64,
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("meta-llama/Llama-3.2-1B-Instruct", 1_235_814_400),
        ("meta-llama/Llama-3.2-3B-Instruct", 3_212_749_824),
        ("meta-llama/Llama-3.1-8B-Instruct", 8_030_261_248),
        ("meta-llama/Llama-3.3-70B-Instruct", 70_553_706_496),
        ("Qwen/Qwen2.5-0.5B-Instruct", 494_032_768),
        ("Qwen/Qwen2.5-1.5B-Instruct", 1_543_714_304),
        ("Qwen/Qwen2.5-7B-Instruct", 7_615_616_512),
        ("Qwen/Qwen2.5-72B-Instruct", 72_706_203_648),
        ("smollm2", 134_515_008),
    ],
)
def test_the_parameters_of_known_models_are_the_published_numbers(name, parameters):
    assert shape_from_config(known_models()[name], name).num_parameters == parameters


def test_the_sizes_of_a_tiny_model_are_those_worked_by_hand():
    # q 8x8, k 8x4, v 8x4, o 8x8, gate 8x16, up 8x16, down 16x8, and two norms of 8
    assert TINY.layer_parameters == 64 + 32 + 32 + 64 + 128 + 128 + 128 + 16 == 592
    assert TINY.num_parameters == 2 * 592 + 2 * 80 + 8
    # inputs and outputs: q 16, k 12, v 12, o 16, gate 24, up 24, down 24
    assert TINY.lora_parameters(3) == 2 * 3 * (16 + 12 + 12 + 16 + 24 + 24 + 24)
    assert TINY.kv_bytes_per_token() == 2 * 2 * 4 * 2  # keys and values, layers, width, bytes
    # a token of a row of 5: two operations for each of 2 x 576 + 80 weights, and 2 x 2 layers x 5 x 8 for attention
    assert TINY.forward_flops(1, 5) == 2 * (2 * 576 + 80) + 160


def test_the_cache_of_llama_8b_is_128_kib_a_token():
    assert find_model("meta-llama/Llama-3.1-8B-Instruct").shape.kv_bytes_per_token() == 128 * 1024


def test_a_local_folder_is_read_and_its_parameters_are_those_of_the_weights():
    from safetensors import safe_open

    model = find_model(str(population_llama()))
    with safe_open(population_llama() / "model.safetensors", "pt") as file:
        sizes = [file.get_slice(key).get_shape() for key in file.keys()]  # noqa: SIM118
    total = sum(size[0] * (size[1] if len(size) > 1 else 1) for size in sizes)
    assert model.shape.num_parameters == total and model.source.endswith("config.json")
    assert find_model("population-llama").shape == model.shape


def test_a_local_folder_comes_before_the_table(tmp_path, monkeypatch):
    folder = tmp_path / "smollm2"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({**known_models()["smollm2"], "num_hidden_layers": 3}))
    monkeypatch.chdir(tmp_path)
    assert find_model("smollm2").shape.num_layers == 3


def test_an_unknown_model_says_where_its_shape_could_come_from():
    with pytest.raises(ConfigError, match=r"not known here.*did you mean 'meta-llama/Llama-3.1-8B-Instruct'.*folder"):
        find_model("meta-llama/Llama-3.1-8B-Instuct")


@pytest.mark.parametrize(
    ("change", "message"),
    [({"model_type": "mixtral"}, "dense models.*got 'mixtral'"), ({"vocab_size": None}, "lacks 'vocab_size'")],
)
def test_a_config_that_is_not_understood_is_refused(change, message):
    config = {k: v for k, v in {**known_models()["smollm2"], **change}.items() if v is not None}
    with pytest.raises(ConfigError, match=message):
        shape_from_config(config, "config.json")
