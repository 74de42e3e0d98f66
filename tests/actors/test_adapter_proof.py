"""Every swap of an adapter is proved: the engine's log-probs at fixed places against those of the adapter's trainer."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import pytest

from actors.adapter_proof import Proofs, Swap, prove
from actors.engines.config import EngineConfig
from actors.engines.transformers_engine import TransformersEngine
from actors.pool import EnginePool
from rlenv.core.adapters import ADAPTER_WEIGHTS, adapter_at
from rlenv.core.canary import TOLERANCES, read_canary, write_canary
from rlenv.core.errors import ConfigError, PhaseError
from rlenv.core.types import Adapter, Sampling
from trainers.backend.canary import make_canary


def with_canary(model: str, adapter: Adapter, folder: Path) -> Adapter:
    """Returns a copy of an adapter with the canary that a trainer in float32 writes."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    shutil.copytree(adapter.path, folder)
    base = AutoModelForCausalLM.from_pretrained(model, dtype="float32")
    canary = make_canary(PeftModel.from_pretrained(base, folder), AutoTokenizer.from_pretrained(model), "float32")
    write_canary(canary, folder)
    return adapter_at(folder, adapter.name)


@pytest.fixture(scope="module")
def versions(tiny, tmp_path_factory) -> tuple[Adapter, Adapter]:
    root = tmp_path_factory.mktemp("versions")
    return with_canary(tiny[0], tiny[1], root / "it1"), with_canary(tiny[0], tiny[2], root / "it2")


@pytest.fixture(scope="module")
def engine(tiny):
    config = EngineConfig(model=tiny[0], backend="transformers", dtype="float32", max_model_len=512, max_loras=1)
    running = TransformersEngine(config)
    asyncio.run(running.start())
    yield running
    running.close()


def proved(adapter: Adapter, ask) -> Swap:
    return asyncio.run(prove(ask, "engine simulator-0", adapter, EngineConfig(model="m", dtype="float32")))


def test_an_engine_that_serves_the_trainers_version_agrees_with_it_and_would_be_told_from_the_base_model(
    engine, versions
):
    for adapter in (*versions, versions[0]):  # the last is loaded again: max_loras is 1
        swap = proved(adapter, engine.generate)
        assert (swap.adapter, swap.digest, swap.places) == (adapter.name, adapter.digest, 12)
        assert swap.gap_max is not None and swap.gap_max < 1e-4 < TOLERANCES["float32"] == swap.tolerance
        assert swap.tells and swap.effect is not None and swap.effect > 0.1 and swap.seconds > 0


def test_the_base_models_words_in_place_of_a_versions_are_an_error_that_names_it(engine, versions):
    with pytest.raises(PhaseError, match=r"simulator-0 does not serve the adapter 'it1'.* at 12 places"):
        proved(versions[0], lambda prompt, sampling, _: engine.generate(prompt, sampling, None))


def test_another_versions_words_are_an_error_that_names_the_version(engine, versions):
    with pytest.raises(PhaseError, match="does not serve the adapter 'it2'"):
        proved(versions[1], lambda prompt, sampling, _: engine.generate(prompt, sampling, versions[0]))


def test_an_adapter_whose_weights_became_zero_on_the_way_is_caught(engine, versions, tmp_path):
    from safetensors.torch import load_file, save_file

    shutil.copytree(versions[0].path, tmp_path / "zero")
    weights = load_file(tmp_path / "zero" / ADAPTER_WEIGHTS)
    save_file({name: 0 * value for name, value in weights.items()}, tmp_path / "zero" / ADAPTER_WEIGHTS)
    with pytest.raises(PhaseError, match="does not serve the adapter 'it1'"):
        proved(adapter_at(tmp_path / "zero", "it1"), engine.generate)


def test_a_version_whose_folder_is_gone_or_holds_another_is_an_error_that_names_it(engine, versions, tmp_path):
    shutil.copytree(versions[0].path, tmp_path / "it1")
    adapter = adapter_at(tmp_path / "it1", "it1")
    ask = Sampling(max_tokens=1, temperature=0.0)
    asyncio.run(engine.generate([1, 2, 3], ask, adapter))
    asyncio.run(engine.generate([1, 2, 3], ask, versions[1]))  # takes the only place in memory
    shutil.copyfile(Path(versions[1].path) / ADAPTER_WEIGHTS, tmp_path / "it1" / ADAPTER_WEIGHTS)
    with pytest.raises(ConfigError, match=f"'it1' \\({adapter.digest[:12]}\\).* holds another version"):
        asyncio.run(engine.generate([1, 2, 3], ask, adapter))
    shutil.rmtree(tmp_path / "it1")
    with pytest.raises(ConfigError, match=r"'it1'.* are gone"):
        asyncio.run(engine.generate([1, 2, 3], ask, adapter))


def test_a_version_without_a_canary_is_recorded_as_not_compared(engine, tiny):
    swap = proved(tiny[1], engine.generate)
    assert (swap.places, swap.gap_mean, swap.tells) == (0, None, None)


def test_a_canary_does_not_change_the_version(tiny, versions):
    assert versions[0].digest == tiny[1].digest
    canary = read_canary(versions[0].path)
    assert canary is not None and len(canary.prompts) == 12 and canary.dtype == "float32"


def test_all_requests_of_a_new_version_wait_for_one_proof_and_a_restart_needs_another(engine, versions, tmp_path):
    proofs, calls = Proofs(tmp_path / "swaps" / "simulator.jsonl"), []

    async def make() -> Swap:
        calls.append(1)
        return await prove(engine.generate, "simulator-0", versions[0], EngineConfig(model="m", dtype="float32"))

    async def many(life: int) -> None:
        await asyncio.gather(*[proofs.require("simulator-0", life, versions[0], make) for _ in range(5)])

    for life in (0, 0, 1):
        asyncio.run(many(life))
    rows = [json.loads(line) for line in (tmp_path / "swaps" / "simulator.jsonl").read_text().splitlines()]
    assert len(calls) == len(rows) == 2 and {row["adapter"] for row in rows} == {"it1"}


@pytest.mark.ray
def test_a_pool_proves_a_version_before_its_first_words_and_says_nothing_under_a_wrong_one(
    cluster, tiny, versions, tmp_path
):
    config = EngineConfig(
        model=tiny[0], backend="transformers", dtype="float32", max_model_len=512, log_dir=str(tmp_path), name="sim"
    )
    shutil.copytree(versions[1].path, tmp_path / "wrong")
    shutil.copyfile(Path(versions[0].path) / "canary.json", tmp_path / "wrong" / "canary.json")
    sampling = Sampling(max_tokens=3, seed=1)
    with EnginePool(config) as pool:

        async def ask(adapter: Adapter) -> int:
            return len((await pool.generate([1, 2, 3], sampling, adapter)).token_ids)

        assert asyncio.run(ask(versions[0])) == 3
        with pytest.raises(PhaseError, match="does not serve the adapter 'wrong'"):
            asyncio.run(ask(adapter_at(tmp_path / "wrong", "wrong")))
        assert pool.stats().requests == 1
    rows = [json.loads(line) for line in (tmp_path / "swaps" / "sim.jsonl").read_text().splitlines()]
    assert [row["adapter"] for row in rows] == ["it1"]
