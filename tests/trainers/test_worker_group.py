"""Workers that are kept between trainings: one process, nothing left behind, and recovery as without them."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from rlenv.core.errors import ConfigError, PhaseError
from trainers.backend.config import TrainResources
from trainers.backend.ray_train import run_training
from trainers.backend.worker_group import NAME, WorkerGroup, as_in_a_new_process

SMALL = TrainResources(num_cpus=1, threads=1, keep_workers=True, answer_timeout_s=15.0)


def test_a_training_leaves_no_environment_variables_and_no_state_of_accelerate(monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    monkeypatch.setenv("RLENV_TEST_KEPT", "before")
    with as_in_a_new_process():
        Accelerator(cpu=True)
        os.environ.update(RLENV_TEST_KEPT="after", RLENV_TEST_ADDED="1")
        assert AcceleratorState._shared_state
    assert os.environ["RLENV_TEST_KEPT"] == "before" and "RLENV_TEST_ADDED" not in os.environ
    assert not AcceleratorState._shared_state


def test_workers_are_kept_with_a_share_of_a_gpu_and_not_with_a_whole_one() -> None:
    assert TrainResources(num_gpus=0.5, keep_workers=True).keep_workers
    with pytest.raises(ConfigError, match=r"set train\.keep_workers to false, or train.num_gpus below 1"):
        TrainResources(num_gpus=1, keep_workers=True)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("local_ray")
def test_trainings_run_in_the_same_processes_and_recover_from_failures_deaths_and_silence(tmp_path: Path) -> None:
    def counts(payload, worker):
        """Counts to ``payload`` with a checkpoint at each step; returns (process, the steps of this process)."""
        import json
        import os

        with worker.resume() as folder:
            start = json.loads((folder / "step.json").read_text()) if folder else 0
        steps = []
        for step in range(start + 1, payload[0] + 1):
            steps.append(step)
            worker.save_checkpoint({"step": float(step)}, lambda to, s=step: (to / "step.json").write_text(str(s)))
            if len(payload) > 1 and step == 2 and not os.path.exists(payload[1]):
                open(payload[1], "w").close()
                import time

                time.sleep(2)  # Ray Train notes a reported checkpoint a moment later
                os.kill(os.getpid(), payload[2])
        return os.getpid(), steps

    def fails(payload, worker):
        raise ValueError("no such backbone")

    group = WorkerGroup(SMALL, tmp_path)
    try:
        one, steps = run_training(counts, (3,), SMALL, tmp_path, "one", workers=group)
        two, other_steps = run_training(counts, (4,), SMALL, tmp_path, "two", workers=group)
        assert one == two != os.getpid()
        assert (steps, other_steps) == ([1, 2, 3], [1, 2, 3, 4])  # not from the checkpoint of the first

        for fault in (signal.SIGKILL, signal.SIGSTOP):
            payload = (4, str(tmp_path / f"{fault.name} has come"), fault)
            three, after_fault = run_training(counts, payload, SMALL, tmp_path, fault.name, workers=group)
            assert three != two and after_fault == [3, 4]
            two = three

        strict = WorkerGroup(replace(SMALL, max_failures=0), tmp_path / "strict")
        with pytest.raises(PhaseError, match="four failed on worker 0: ValueError: no such backbone"):
            run_training(fails, (), SMALL, tmp_path, "four", workers=strict)
        assert run_training(counts, (1,), SMALL, tmp_path, "five", workers=strict)[1] == [1]
        strict.close()
    finally:
        group.close()
    assert not (tmp_path / NAME).exists() and not (tmp_path / "strict" / NAME).exists()
