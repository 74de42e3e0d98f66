"""Real Ray Train runs: after a killed worker is replaced, the result is unchanged; errors name the cause.

The loops are defined inside the tests, so that they travel to the workers by value.
"""

import json
import math
import os
import signal
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from ray import PlacementGroupID
from ray.util.placement_group import PlacementGroup, placement_group_table, remove_placement_group
from safetensors.torch import load_file

from rlenv.core.adapters import adapter_at
from rlenv.core.errors import PhaseError
from rlenv.core.progress import Progress, read_progress
from rlenv.discriminator.labelled import LabelledSession
from trainers.backend.config import TrainResources
from trainers.backend.ray_train import run_training
from trainers.backend.worker import Worker
from trainers.discriminator.config import DiscriminatorConfig
from trainers.discriminator.fit import read_validation
from trainers.discriminator.loop import Task, train_discriminators
from trainers.dpo.config import DpoConfig
from trainers.dpo.fit import train_dpo
from trainers.pretrain.loop import train_base_model
from trainers.sft.config import SftConfig, SftExample
from trainers.sft.fit import fit_sft, train_sft

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("local_ray")]
SMALL = TrainResources(num_cpus=1, threads=1)


def test_workers_that_no_node_has_room_for_end_the_training_with_what_the_cluster_has(tmp_path, caplog):
    too_large = TrainResources(num_cpus=1000, startup_timeout_s=2, max_failures=1)
    with pytest.raises(PhaseError) as error:
        run_training(lambda payload, worker: None, {}, too_large, tmp_path, "sft")
    told = str(error.value)
    assert told.startswith("training sft: its workers did not start within 2 s, tried 2 times: asks for 1 x (1000 CPU")
    assert "but the cluster has 2 CPU and 0 GPU (per node)" in told and "lower train.num_workers" in told.lower()
    assert "waiting for nodes to join" in caplog.text


def dying(loop, at_step: int, marker: Path):
    """Returns ``loop`` on a worker that is killed when it first reports ``at_step``."""

    def dies_once(payload, worker):
        import os
        import signal
        import time
        from dataclasses import replace

        from rlenv.core.progress import Progress

        class Deadly(Progress):
            def write(self, step, total, **metrics):
                super().write(step, total, **metrics)
                if step == at_step and not marker.exists():
                    marker.touch()
                    time.sleep(2)  # Ray Train notes a reported checkpoint a moment later
                    os.kill(os.getpid(), signal.SIGKILL)

        progress = Deadly(str(worker.progress.path), worker.progress.phase)
        return loop(payload, replace(worker, progress=progress))

    return dies_once


def assert_went_on(progress: Path, died_at: int, total: int, checkpoints: set[int]) -> None:
    """The steps run up to the death, and then from one of the checkpoints to the end."""
    steps = [line["step"] for line in read_progress(progress)]
    assert steps[:died_at] == [*range(1, died_at + 1)]
    assert steps[died_at] - 1 in checkpoints
    assert steps[died_at:] == [*range(steps[died_at], total + 1)]


def sft_examples(make_session, num: int) -> tuple[SftExample, ...]:
    return tuple(SftExample(session_id=str(i), system="c", messages=make_session(str(i)).messages) for i in range(num))


@pytest.mark.exhaustive
def test_killed_sft_resumes_from_its_checkpoint_to_the_same_weights(tiny_llama, tmp_path, make_session) -> None:
    config = SftConfig(dtype="float32", learning_rate=1e-2, save_every=4)
    examples = sft_examples(make_session, 14)
    progress, out = tmp_path / "progress.jsonl", tmp_path / "out"
    loop = dying(train_sft, 10, tmp_path / "died")
    payload = (examples, config, str(tiny_llama), str(out))
    summary = run_training(loop, payload, SMALL, tmp_path, "sft", progress_path=progress)
    assert_went_on(progress, 10, 14, {4, 8})
    (tmp_path / "scratch").mkdir()
    undisturbed = train_sft((examples, config, str(tiny_llama), str(tmp_path / "twin")), Worker(tmp_path / "scratch"))
    assert adapter_at(out, "a").digest == adapter_at(tmp_path / "twin", "a").digest
    assert summary == pytest.approx(undisturbed)
    assert not (tmp_path / "sft").exists()  # checkpoints are gone after success


@pytest.mark.exhaustive
def test_killed_dpo_resumes_with_the_same_reference(tiny_llama, tmp_path, make_session) -> None:
    (tmp_path / "scratch").mkdir()
    reference = tmp_path / "base"
    sft = SftConfig(dtype="float32", learning_rate=1e-2, save_every=0)
    train_sft((sft_examples(make_session, 6), sft, str(tiny_llama), str(reference)), Worker(tmp_path / "scratch"))
    rows = {
        "prompt_ids": [[5, 6, 7, 8 + i] for i in range(12)],
        "chosen_ids": [[20, 21, 2]] * 12,
        "rejected_ids": [[30, 31 + i, 2] for i in range(12)],
    }
    config = DpoConfig(dtype="float32", learning_rate=1e-3, save_every=4)
    progress, out = tmp_path / "progress.jsonl", tmp_path / "it1"
    loop = dying(train_dpo, 7, tmp_path / "died")
    payload = (rows, config, str(tiny_llama), str(reference), str(out))
    summary = run_training(loop, payload, SMALL, tmp_path, "dpo", progress_path=progress)
    assert_went_on(progress, 7, 12, {4})
    twin = (rows, config, str(tiny_llama), str(reference), str(tmp_path / "twin"))
    undisturbed = train_dpo(twin, Worker(tmp_path / "scratch"))
    assert adapter_at(out, "it1").digest == adapter_at(tmp_path / "twin", "it1").digest
    assert summary == pytest.approx(undisturbed)


@pytest.mark.exhaustive  # a driver is killed in it: launch/adversarial/test_flow.py
def test_killed_discriminator_training_skips_finished_jobs_and_resumes_the_unfinished_one(
    tiny_llama, tmp_path, make_session
) -> None:
    items = [
        (
            LabelledSession(context_id=str(i), real=real, session=make_session(f"{i}{real}", 2, "" if real else "!")),
            None,
        )
        for i in range(24)
        for real in (True, False)
    ]
    config = DiscriminatorConfig(learning_rate=1e-2, dtype="float32", batch_size=4, save_every=2)
    tasks = [Task("main", items[:32], items[32:], False), Task("leak", items[:32], items[32:], True)]
    progress = tmp_path / "progress.jsonl"
    loop = dying(train_discriminators, 8 + 5, tmp_path / "died")
    outs = [str(tmp_path / name) for name in ("main", "leak")]
    payload = (tasks, config, str(tiny_llama), outs)
    summaries = run_training(loop, payload, SMALL, tmp_path, "disc", progress_path=progress)
    assert_went_on(progress, 13, 16, {8, 10, 12})
    (tmp_path / "scratch").mkdir()
    twins = [str(tmp_path / f"twin-{name}") for name in ("main", "leak")]
    undisturbed = train_discriminators((tasks, config, str(tiny_llama), twins), Worker(tmp_path / "scratch"))
    assert summaries == undisturbed
    for out, twin in zip(outs, twins, strict=True):
        assert read_validation(out) == read_validation(twin)
        weights = [sorted(Path(folder).glob("*.safetensors")) for folder in (out, twin)]
        assert [f.read_bytes() for f in weights[0]] == [f.read_bytes() for f in weights[1]] != []


def test_two_workers_share_discriminators_and_the_base_model_and_shard_sft_and_dpo(
    tiny_llama, tiny_shape, tmp_path, make_session
) -> None:
    items = [
        (
            LabelledSession(context_id=str(i), real=real, session=make_session(f"{i}{real}", 3, "" if real else "!")),
            None,
        )
        for i in range(60)
        for real in (True, False)
    ]
    disc = DiscriminatorConfig(learning_rate=3e-3, dtype="float32", batch_size=4, epochs=6, batch_tokens=150)
    sft = SftConfig(dtype="float32", learning_rate=2e-2, save_every=0, shard=True)
    dpo = DpoConfig(dtype="float32", learning_rate=1e-3, save_every=0, shard=True)

    def all_four(payload, worker):
        import torch
        import transformers
        from accelerate.state import AcceleratorState, DistributedType, PartialState

        from rlenv.core.errors import PhaseError

        # The run's checkpoint is the discriminators': the others have none to begin with.
        train_discriminators(payload[0], worker)
        plain = Worker(worker.scratch, worker.progress, worker.rank, worker.world_size, worker.device)
        refused = ""
        try:
            train_sft(payload[1], plain)
        except PhaseError as error:
            refused = str(error)
        create = transformers.Trainer.create_accelerator_and_postprocess

        def create_as_on_an_accelerator(self):
            # accelerate leaves FSDP out where it sees a CPU; sharding itself works over gloo.
            assert self.args.device.type == "cpu"
            AcceleratorState._reset_state()
            PartialState._shared_state["distributed_type"] = DistributedType.MULTI_XPU
            create(self)

        transformers.Trainer.create_accelerator_and_postprocess = create_as_on_an_accelerator
        summaries = train_sft(payload[1], plain), train_dpo(payload[2], plain), train_base_model(payload[3], plain)
        return refused, *summaries, torch.distributed.get_world_size()

    rows = {
        "prompt_ids": [[5, 6, 7, 8 + i] for i in range(12)],
        "chosen_ids": [[20, 21, 2]] * 12,
        "rejected_ids": [[30, 31 + i, 2] for i in range(12)],
    }
    base, it1 = str(tmp_path / "base"), str(tmp_path / "it1")
    payload = (
        ([Task("main", items[:90], items[90:], False)], disc, str(tiny_llama), [str(tmp_path / "disc")]),
        (sft_examples(make_session, 24), sft, str(tiny_llama), base),
        (rows, dpo, str(tiny_llama), base, it1),
        (sft_examples(make_session, 120), tiny_shape, str(tmp_path / "model")),
    )
    resources = TrainResources(num_workers=2, num_cpus=0.5, threads=1, max_failures=0)
    refused, learnt, preferred, model, world = run_training(all_four, payload, resources, tmp_path, "all")
    assert world == 2 and "not sharded" in refused
    scored = read_validation(tmp_path / "disc")
    right = [(value > 0) == s.real for s in scored for value in s.log_odds[1:]]
    assert sum(right) / len(right) > 0.9
    assert learnt["loss_last"] < learnt["loss_first"]
    assert preferred["loss_step0"] == pytest.approx(math.log(2), abs=1e-5)
    assert preferred["margin"] > 0
    assert model["loss_last"] < 3 and (tmp_path / "model" / "model.safetensors").is_file()
    weights = [load_file(Path(folder) / "adapter_model.safetensors") for folder in (base, it1)]
    assert {name: w.shape for name, w in weights[0].items()} == {name: w.shape for name, w in weights[1].items()}
    assert weights[0].keys() and all(w.shape[-1] == 8 or w.shape[0] == 8 for w in weights[0].values())


def test_an_error_names_the_run_the_cause_and_the_log(tmp_path, capfd) -> None:
    def fails(payload, worker):
        print("loading the backbone")
        raise ValueError("no such backbone")

    with pytest.raises(PhaseError) as error:
        run_training(fails, 1, replace(SMALL, max_failures=0), tmp_path, "phase")
    text = str(error.value)
    assert "phase failed on worker 0: ValueError: no such backbone" in text
    assert "loading the backbone" in text and str(tmp_path / "phase.logs") in text
    shown = capfd.readouterr()
    assert "loading the backbone" not in shown.out + shown.err
    assert "Failed to query" not in shown.out + shown.err


def test_a_worker_that_hangs_is_replaced_until_the_tries_are_used_up(tmp_path) -> None:
    def hangs(payload, worker):
        import time
        from pathlib import Path

        tries, num_hung = Path(payload[0]), payload[1]
        with tries.open("a") as file:
            file.write(".")
        if len(tries.read_text()) <= num_hung:
            time.sleep(600)
        return len(tries.read_text())

    resources = replace(SMALL, max_failures=1, answer_timeout_s=3.0)
    assert run_training(hangs, (str(tmp_path / "one"), 1), resources, tmp_path, "once") == 2
    with pytest.raises(PhaseError, match=r"is alive and has made no progress; raise train\.answer_timeout_s") as error:
        run_training(hangs, (str(tmp_path / "two"), 9), resources, tmp_path, "always")
    assert "made no progress for 3 s; killing it" in str(error.value)
    assert len((tmp_path / "two").read_text()) == 2


def test_a_controller_that_is_stopped_is_killed_and_the_same_training_goes_on(tmp_path) -> None:
    def stops_the_controller(payload, worker):
        import os
        import signal
        import time
        from pathlib import Path

        import psutil

        if not Path(payload).exists():
            Path(payload).touch()
            beside = psutil.Process(os.getpid()).parent().children()
            controllers = [p for p in beside if "ray::TrainController" in " ".join(p.cmdline())]
            max(controllers, key=lambda p: p.create_time()).send_signal(signal.SIGSTOP)
            time.sleep(600)
        return "trained"

    resources = replace(SMALL, answer_timeout_s=3.0)
    again = partial(run_training, stops_the_controller, str(tmp_path / "stopped"), resources, tmp_path, "sft")
    before = set(placement_group_table())
    with pytest.raises(PhaseError, match=r"training sft: Ray Train's controller died, or could not run for 3 s"):
        again()
    for group in set(placement_group_table()) - before:  # which the driver's end frees, but this process goes on
        remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(group))))
    assert again() == "trained"


def test_an_existing_version_is_never_overwritten(tiny_llama, tmp_path, make_session) -> None:
    (tmp_path / "base").mkdir()
    with pytest.raises(PhaseError, match="exists already"):
        fit_sft(sft_examples(make_session, 2), SftConfig(), tiny_llama, tmp_path / "base")


def test_progress_lines_have_only_numbers(tmp_path) -> None:
    progress = Progress(str(tmp_path / "p.jsonl"), "phase")
    progress.write(1, 2, loss=0.5, bad=float("nan"))
    line = read_progress(tmp_path / "p.jsonl")[0]
    assert (line["phase"], line["step"], line["total"], line["loss"]) == ("phase", 1, 2, 0.5) and "bad" not in line
    with (tmp_path / "p.jsonl").open("a") as stream:
        stream.write(json.dumps({"step": 2})[:4])
    assert len(read_progress(tmp_path / "p.jsonl")) == 1
    assert read_progress(tmp_path / "none") == [] and os.path.exists(tmp_path / "p.jsonl")


@pytest.fixture
def python_handles_ctrl_c():
    """A shell's background jobs begin with SIGINT ignored, and so would a suite that runs there."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("python_handles_ctrl_c")
def test_ctrl_c_within_a_training_raises_and_after_it_is_as_before(tmp_path) -> None:
    before = signal.getsignal(signal.SIGINT)

    def trains(seconds, worker):
        import time

        Path(tmp_path / "training").touch()
        time.sleep(seconds)
        return 1

    def interrupt() -> None:
        while not (tmp_path / "training").exists():
            time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        run_training(trains, 60, SMALL, tmp_path, "long")
    assert run_training(trains, 0, SMALL, tmp_path, "short") == 1
    assert signal.getsignal(signal.SIGINT) is before
