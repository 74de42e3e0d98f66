"""Sharded training (FSDP2): the adapter is the unsharded one, one worker reads the model, and a killed one goes on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rlenv.core.adapters import ADAPTER_WEIGHTS
from rlenv.core.canary import read_canary
from rlenv.core.progress import read_progress
from rlenv.core.types import Alternatives
from tests.trainers.test_ray_train import dying
from tests.trainers.toy_rollouts import ToyRollouts
from trainers.backend.config import TrainResources
from trainers.backend.ray_train import run_training
from trainers.backend.worker import Worker
from trainers.chatbot_rl.config import ChatbotRlConfig
from trainers.chatbot_rl.fit import train_chatbot
from trainers.dpo.alternatives import train_on_alternatives
from trainers.dpo.config import DpoConfig
from trainers.dpo.fit import train_dpo
from trainers.sft.config import SftConfig, SftExample
from trainers.sft.fit import train_sft

pytestmark = [pytest.mark.slow, pytest.mark.ray]

SFT = SftConfig(dtype="float32", learning_rate=2e-2, save_every=0)
DPO = DpoConfig(dtype="float32", learning_rate=1e-3, save_every=0)
RL = ChatbotRlConfig(
    dtype="float32", learning_rate=5e-3, num_rounds=3, num_groups=4, group_size=4,
    gradient_accumulation=2, save_every=0, max_staleness=9,
)  # fmt: skip


def shard_on_cpus() -> None:
    """Makes accelerate shard on a CPU, where it leaves FSDP out by itself; sharding itself works over gloo."""
    import transformers
    from accelerate.state import AcceleratorState, DistributedType, PartialState

    create = transformers.Trainer.create_accelerator_and_postprocess

    def create_as_on_an_accelerator(self):
        AcceleratorState._reset_state()
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_XPU
        create(self)

    transformers.Trainer.create_accelerator_and_postprocess = create_as_on_an_accelerator


def train_both_ways(payload, worker: Worker) -> list[float]:
    """Trains everything unsharded and then sharded; returns the first base weight as each sharded load found it."""
    import torch

    from trainers.backend.huggingface import load_base

    def all_loops(out: str, shard: bool) -> None:
        model, examples, (rows, alternatives), rollouts = payload[:4]
        place = Worker(Path(worker.scratch) / out, worker.progress, worker.rank, worker.world_size, worker.device)
        place.scratch.mkdir(exist_ok=True)
        folder = f"{payload[4]}/{out}"
        train_sft((examples, replace(SFT, shard=shard), model, f"{folder}-sft"), place)
        train_dpo((rows, replace(DPO, shard=shard), model, f"{payload[4]}/whole-sft", f"{folder}-dpo"), place)
        listwise = replace(DPO, targets="listwise", held_out=0.2, shard=shard)
        train_on_alternatives(
            ((alternatives, None), listwise, model, f"{payload[4]}/whole-sft", f"{folder}-listwise"), place
        )
        rl = replace(RL, shard=shard, batch_size=8 // worker.world_size)
        train_chatbot((rollouts, rl, model, f"{payload[4]}/whole-sft", f"{folder}-rl"), place)

    all_loops("whole", False)
    shard_on_cpus()
    all_loops("shards", True)
    mine = float(next(load_base(payload[0], "float32", "cpu", shard=True).parameters()).abs().sum())
    found = [torch.zeros(1) for _ in range(worker.world_size)]
    torch.distributed.all_gather(found, torch.tensor([mine]))
    return [float(value) for value in found]


@pytest.mark.parametrize("num_workers", [2, pytest.param(4, marks=pytest.mark.exhaustive)])
def test_a_sharded_training_gives_the_unsharded_adapter_and_reads_the_model_once(
    num_workers, local_ray, tiny_llama, tmp_path, make_session
) -> None:
    examples = tuple(
        SftExample(session_id=str(i), system="c", messages=make_session(str(i)).messages) for i in range(16)
    )
    rows = {
        "prompt_ids": [[5, 6, 7, 8 + i] for i in range(12)],
        "chosen_ids": [[20, 21, 2]] * 12,
        "rejected_ids": [[30, 31 + i, 2] for i in range(12)],
    }
    alternatives = [
        Alternatives(
            session_id=f"s{i}", turn=1, critical="drawn", simulator="base", prompt_ids=(5, 6, 7, 8 + i),
            replies_ids=((20, 21, 2), (30, 31 + i, 2), (40, 2)), rewards=(1.0, -1.0, 0.0),
        )
        for i in range(13)
    ]  # fmt: skip
    payload = str(tiny_llama), examples, (rows, alternatives), ToyRollouts(str(tiny_llama)), str(tmp_path)
    resources = TrainResources(num_workers=num_workers, num_cpus=1 / num_workers, threads=1, max_failures=0)
    read = run_training(train_both_ways, payload, resources, tmp_path / "training", "both")
    assert read[0] > 0 and not any(read[1:])
    for kind in ("sft", "dpo", "listwise", "rl"):
        whole, shards = (load_file(tmp_path / f"{way}-{kind}" / ADAPTER_WEIGHTS) for way in ("whole", "shards"))
        assert whole.keys() == shards.keys()
        largest = max(float(value.abs().max()) for value in whole.values())
        for name, value in whole.items():
            assert float((value - shards[name]).abs().max()) < 1e-3 * largest, (kind, name)
        canaries = [read_canary(tmp_path / f"{way}-{kind}") for way in ("whole", "shards")]
        assert canaries[0].effect == pytest.approx(canaries[1].effect, rel=1e-3)


def train_sharded(payload, worker: Worker) -> float:
    """Trains one kind, sharded; returns its loss."""
    kind, arguments = payload
    shard_on_cpus()
    return {"sft": train_sft, "rl": train_chatbot}[kind](arguments, worker)


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", ["sft", "rl"])
def test_a_sharded_training_that_is_killed_goes_on_from_its_checkpoint_to_the_same_adapter(
    kind, local_ray, tiny_llama, tmp_path, make_session
) -> None:
    examples = tuple(
        SftExample(session_id=str(i), system="c", messages=make_session(str(i)).messages) for i in range(16)
    )
    model, resources = str(tiny_llama), TrainResources(num_workers=2, num_cpus=0.5, threads=1, max_failures=1)
    sft = replace(SFT, shard=True, save_every=1, batch_size=2)
    start = str(tmp_path / "undisturbed-sft")
    rl = replace(RL, shard=True, save_every=1, batch_size=4)
    if kind == "rl":
        run_training(train_sharded, ("sft", (examples, sft, model, start)), resources, tmp_path / "training", "start")

    def payload(out: str):
        folder = str(tmp_path / f"{out}-{kind}")
        return kind, {
            "sft": (examples, sft, model, folder),
            "rl": (ToyRollouts(model), rl, model, start, folder),
        }[kind]

    run_training(train_sharded, payload("undisturbed"), resources, tmp_path / "training", "undisturbed")
    died = tmp_path / "died"
    progress = tmp_path / "progress.jsonl"
    loop, storage = dying(train_sharded, 3, died), tmp_path / "training"
    run_training(loop, payload("killed"), resources, storage, "killed", progress_path=progress)
    steps = [line["step"] for line in read_progress(progress)]
    assert died.exists() and steps.count(1) == 1 and steps.count(3) == 2  # it did not begin again
    undisturbed, killed = (load_file(tmp_path / f"{out}-{kind}" / ADAPTER_WEIGHTS) for out in ("undisturbed", "killed"))
    assert undisturbed.keys() == killed.keys()
    for name, value in undisturbed.items():
        assert torch.equal(value, killed[name]), name
