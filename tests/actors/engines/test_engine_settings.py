"""Settings and requests are refused with every problem named, before anything is started."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from actors.engines.actor import actor_environment
from actors.engines.config import EngineConfig
from actors.engines.requests import adapter_id, adapter_key, check_adapter, check_prompt
from actors.engines.vllm_engine import engine_args, import_vllm
from actors.process import tail
from rlenv.core.adapters import adapter_at
from rlenv.core.errors import ConfigError, OverlongError
from rlenv.core.types import Adapter, Sampling


def test_all_problems_of_a_config_come_in_one_error():
    with pytest.raises(ConfigError) as error:
        EngineConfig(model="", replicas=0, max_lora_rank=9, tensor_parallel_size=2, num_gpus=1)
    for field in ("model", "replicas", "max_lora_rank", "num_gpus"):
        assert field in str(error.value)


def test_a_gpu_needs_only_other_settings():
    cpu, gpu = EngineConfig(model="m"), EngineConfig(model="m", num_gpus=2, tensor_parallel_size=2)
    assert engine_args(cpu)["worker_cls"].startswith("actors.") and engine_args(cpu)["enforce_eager"]
    assert "worker_cls" not in engine_args(gpu) and not engine_args(gpu)["enforce_eager"]
    assert engine_args(gpu)["kv_cache_memory_bytes"] is None
    assert engine_args(gpu)["distributed_executor_backend"].endswith("ProcessExecutor")


def test_cuda_graphs_are_captured_for_the_sizes_asked_for_and_only_where_there_are_any():
    gpu = EngineConfig(model="m", num_gpus=1, graph_sizes=(8, 1, 8))
    assert engine_args(gpu)["compilation_config"]["cudagraph_capture_sizes"] == [1, 8]
    assert "compilation_config" not in engine_args(replace(gpu, graph_sizes=()))
    for without in ({"num_gpus": 0}, {"enforce_eager": True}, {"backend": "transformers"}):
        with pytest.raises(ConfigError, match="graph_sizes: CUDA graphs need backend 'vllm'"):
            replace(gpu, **without)


GPU = EngineConfig(model="m", num_gpus=2, tensor_parallel_size=2, max_num_seqs=256, gpu_memory_utilization=0.8)
EVERY = [
    EngineConfig(model="m"),
    EngineConfig(model="m", structured=True, max_loras=0, kv_cache_gib=3, enforce_eager=False),
    GPU,
    replace(GPU, graph_sizes=(1, 8, 64)),
    replace(GPU, batch_invariant=True, dtype="bfloat16", max_lora_rank=64, seed=7),
]


def test_batch_invariance_sets_vllms_own_switch_on_a_gpu_only_where_asked():
    assert "VLLM_BATCH_INVARIANT" not in actor_environment(GPU)
    assert actor_environment(replace(GPU, batch_invariant=True))["VLLM_BATCH_INVARIANT"] == "1"
    on_cpu, off = EngineConfig(model="m"), EngineConfig(model="m", batch_invariant=False)
    assert actor_environment(on_cpu)[
        "VLLM_CPU_ATTN_SPLIT_KV"
    ] == "0" and "VLLM_BATCH_INVARIANT" not in actor_environment(on_cpu)
    assert "VLLM_CPU_ATTN_SPLIT_KV" not in actor_environment(off)
    assert engine_args(on_cpu)["worker_cls"].endswith("InvariantCpuWorker")
    assert engine_args(off)["worker_cls"].endswith(".CpuWorker")
    with pytest.raises(ConfigError, match="batch_invariant: on a GPU needs backend 'vllm'"):
        EngineConfig(model="m", num_gpus=1, backend="transformers", batch_invariant=True)


@pytest.mark.slow
def test_the_installed_vllm_takes_every_argument_and_knows_every_variable():
    """Without an engine: importing vLLM takes seconds."""
    from vllm import envs

    engine_arguments, _ = import_vllm()
    known = {field.name for field in fields(engine_arguments)}
    for config in EVERY:
        arguments = engine_args(config)
        assert arguments.keys() <= known
        made = engine_arguments(**arguments)
        plain = {k: v for k, v in arguments.items() if not isinstance(v, dict)}
        assert {k: getattr(made, k) for k in plain} == plain
        asked = {name for name in actor_environment(config) if name.startswith("VLLM_")}
        assert asked <= envs.environment_variables.keys()


def test_a_new_version_of_an_adapter_has_a_new_number_and_a_new_name():
    old, new = (Adapter(name="it1", path="/a", digest=digit * 64) for digit in "37")
    assert adapter_id(old) != adapter_id(new) and adapter_key(old) != adapter_key(new)
    assert 0 < adapter_id(Adapter(name="x", path="/a", digest="f" * 64)) < 2**31
    assert adapter_id(Adapter(name="x", path="/a", digest="8" + "0" * 63)) == 1


def test_an_overlong_request_says_how_long_it_is():
    check_prompt([1] * 90, Sampling(max_tokens=10), 100)
    with pytest.raises(OverlongError, match=r"91 tokens.*10.*100 positions"):
        check_prompt([1] * 91, Sampling(max_tokens=10), 100)


def test_foreign_tokens_and_empty_prompts_are_refused():
    with pytest.raises(ConfigError, match="another model's tokenizer"):
        check_prompt([1, 600], Sampling(max_tokens=1), 100, 512)
    with pytest.raises(ConfigError, match="no tokens"):
        check_prompt([], Sampling(max_tokens=1), 100)


def broken(folder: Path, how: str) -> None:
    """Breaks the adapter in a folder, as copies and other trainings do."""
    weights, settings = folder / "adapter_model.safetensors", folder / "adapter_config.json"
    config, tensors = json.loads(settings.read_text()), load_file(weights)
    if how in ("cut", "cut in the head", "empty"):
        size = {"cut": weights.stat().st_size - 100, "cut in the head": 50, "empty": 0}[how]
        weights.write_bytes(weights.read_bytes()[:size])
    elif how == "another base model":
        save_file({k: np.concatenate([v, v], axis=1 if "lora_A" in k else 0) for k, v in tensors.items()}, weights)
    elif how == "other names":
        save_file({k.replace("layers", "blocks"): v for k, v in tensors.items()}, weights)
    elif how == "no settings":
        settings.write_text("{")
    else:
        changes = {
            "rank": {"r": 16},
            "rank of one module": {"rank_pattern": {"q_proj": 64}},
            "whole layers": {"modules_to_save": ["lm_head"]},
            "dora": {"use_dora": True},
            "not lora": {"peft_type": "IA3"},
            "bias": {"bias": "all"},
            "pissa": {"init_lora_weights": "pissa"},
        }
        settings.write_text(json.dumps(config | changes[how]))


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("cut", r"expected \d+ bytes, got \d+; the file was cut off, copy it again"),
        ("cut in the head", "the file was cut off"),
        ("empty", "not a whole safetensors file|cut off"),
        (
            "another base model",
            r"matrices do not fit the base model, the first .*expected a width of 16, got 32; it was",
        ),
        ("other names", "none of its matrices belongs to a part of the base model"),
        ("no settings", r"adapter_config\.json cannot be read"),
        ("rank", "rank: expected 8 or less, got 16; raise max_lora_rank"),
        ("rank of one module", "rank: expected 8 or less, got 64"),
        ("whole layers", r"modules_to_save: \['lm_head'\] cannot be served"),
        ("dora", "use_dora: true cannot be served"),
        ("not lora", "peft_type: expected LORA, got 'IA3'"),
        ("bias", "bias: 'all' cannot be served"),
        ("pissa", "init_lora_weights: 'pissa' cannot be served"),
    ],
)
def test_an_adapter_that_no_engine_can_load_is_refused_by_name_with_the_reason(whole_adapter, tmp_path, how, told):
    model, good = whole_adapter
    config = EngineConfig(model=str(model))
    check_adapter(adapter_at(good, "it1"), config)
    folder = shutil.copytree(good, tmp_path / "it1")
    broken(folder, how)
    with pytest.raises(ConfigError, match=rf"the adapter 'it1' at .*it1 cannot be loaded: .*{told}"):
        check_adapter(adapter_at(folder, "it1"), config)


def test_a_backend_with_all_of_peft_takes_what_vllm_does_not(whole_adapter, tmp_path):
    model, good = whole_adapter
    folder = shutil.copytree(good, tmp_path / "it1")
    broken(folder, "dora")
    check_adapter(adapter_at(folder, "it1"), EngineConfig(model=str(model), backend="transformers"))


def test_an_engine_without_loras_refuses_adapters(whole_adapter):
    with pytest.raises(ConfigError, match="max_loras 0"):
        check_adapter(adapter_at(whole_adapter[1], "it1"), EngineConfig(model="m", max_loras=0))


@pytest.fixture(scope="module")
def whole_adapter(tmp_path_factory) -> tuple[Path, Path]:
    """The folders of a base model of two matrices and of an adapter for it."""
    model, adapter = (tmp_path_factory.mktemp(name) for name in ("model", "adapter"))
    save_file({"model.layers.0.self_attn.q_proj.weight": np.zeros((24, 16), np.float32)}, model / "model.safetensors")
    (model / "config.json").write_text("{}")
    where = "base_model.model.model.layers.0.self_attn.q_proj"
    halves = {f"{where}.lora_A.weight": np.zeros((4, 16)), f"{where}.lora_B.weight": np.zeros((24, 4))}
    save_file(halves, adapter / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": 4, "bias": "none", "base_model_name_or_path": "tiny", "modules_to_save": None}
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    return model, adapter


def test_the_tail_of_a_log_is_its_last_lines(tmp_path):
    (tmp_path / "a.log").write_text("\n".join(map(str, range(100))))
    assert tail(str(tmp_path / "a.log"), 2) == "98\n99"
    assert "no log" in tail(str(tmp_path / "b.log"))
