"""Settings and requests are refused with every problem named, before anything is started."""

from __future__ import annotations

import pytest

from actors.engines.config import EngineConfig
from actors.engines.requests import adapter_id, adapter_key, check_adapter, check_prompt
from actors.engines.vllm_engine import engine_args
from actors.process import tail
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


def test_an_adapter_that_cannot_be_served_is_refused(tmp_path):
    adapter = Adapter(name="it1", path=str(tmp_path), digest="1" * 64)
    with pytest.raises(ConfigError, match="is the folder complete"):
        check_adapter(adapter, 1, 8)
    (tmp_path / "adapter_config.json").write_text('{"r": 16}')
    with pytest.raises(ConfigError, match="rank 16, the engine accepts up to 8"):
        check_adapter(adapter, 1, 8)
    with pytest.raises(ConfigError, match="max_loras 0"):
        check_adapter(adapter, 0, 16)


def test_the_tail_of_a_log_is_its_last_lines(tmp_path):
    (tmp_path / "a.log").write_text("\n".join(map(str, range(100))))
    assert tail(str(tmp_path / "a.log"), 2) == "98\n99"
    assert "no log" in tail(str(tmp_path / "b.log"))
