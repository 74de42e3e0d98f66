"""A cluster of a head and a second raylet on this machine: a submitted run outlives the raylet's death and a stop.

The driver has half of the head's CPUs. So engines work on the second raylet, since Ray places actors on the nodes of
which less than half is used, and are started again on the head when it is killed. A training's worker has room on a
second raylet only, and is started again on the next one that joins.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from launch.cli.status import status_of
from launch.reports.verify import verify
from tests.launch.adversarial.test_flow import compare, made
from tests.launch.cli.conftest import Cluster, Node

ROOT = Path(__file__).parents[3]
pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.exhaustive]


class Job:
    """``launch/submit.sh CONFIG`` while it follows the job."""

    def __init__(self, cluster: Cluster, config: Path, out_dir: Path, log: Path) -> None:
        self.log = log
        environment = cluster.environment | {"ENTRYPOINT_CPUS": "1", "ENTRYPOINT_RESOURCES": '{"driver": 1}'}
        command = [str(ROOT / "launch" / "submit.sh"), str(config), f"out_dir={out_dir}"]
        with open(log, "w") as stream:
            self.process = subprocess.Popen(command, env=environment, stdout=stream, stderr=stream)

    def wait(self) -> int:
        """Returns its exit code."""
        return self.process.wait()

    def wait_until(self, holds: Callable[[], bool]) -> None:
        """Waits until ``holds()``; fails if the job ends first."""
        while not holds():
            assert self.process.poll() is None, self.log.read_text()[-4000:]
            time.sleep(0.05)

    @property
    def stop_command(self) -> list[str]:
        """The command that stops the job, as the script prints it."""
        found = re.search(r"stop it with: (ray job stop .*)\)", self.log.read_text())
        assert found is not None
        return found[1].split()


@dataclass(frozen=True)
class Submitted:
    """A cluster with an undisturbed run, and how to make the run again in the same folder."""

    cluster: Cluster
    config: Path
    root: Path
    undisturbed: Path

    def submit(self, log: Path) -> Job:
        """Returns a job that makes or resumes the run."""
        return Job(self.cluster, self.config, self.root, log)


@pytest.fixture(scope="module")
def submitted(head, write_config, tiny_llama, finished_run, tmp_path_factory) -> Submitted:
    folder = tmp_path_factory.mktemp("submitted")
    config = write_config(
        backbone=str(tiny_llama),
        simulator={"model": str(tiny_llama), "adapter": str(finished_run / "base/adapter")},
        engines={"simulator": {"num_cpus": 0.6, "max_model_len": 1024}},
        discriminator={"max_tokens": 1024},
        preferences={"num_alternatives": 3},
        dpo={"targets": "soft"},  # of which no turn is left out
        train={"num_cpus": 1.2, "keep_workers": False},
        scoring={"num_cpus": 0.4},  # beside an engine in the head's other CPU
        keep_engines=False,
    )
    node = head.join()
    job = Job(head, config, folder / "run", folder / "undisturbed.log")
    assert job.wait() == 0, job.log.read_text()[-4000:]
    node.stop()
    undisturbed = (folder / "run").rename(folder / "undisturbed")
    return Submitted(head, config, folder / "run", undisturbed)


@pytest.fixture
def run(submitted) -> Iterator[Submitted]:
    """The run's folder is empty before and after a test."""
    yield submitted
    shutil.rmtree(submitted.root, ignore_errors=True)


def in_phase(run: Submitted, phase: str, log: str) -> Callable[[], bool]:
    """Returns a condition: the phase is under way, and has written progress."""
    path = run.root / "logs" / f"{log}.jsonl"

    def holds() -> bool:
        if not path.exists() or not path.read_text() or (run.root / phase).exists():
            return False
        return status_of(run.root).driver.phase == phase

    return holds


INSIDE = {
    "base/simulated": ("conversations-base", "EngineActor"),
    "base/discriminator": ("discriminator-base", "RayTrainWorker"),
    "base/preferences": ("preferences-base", "EngineActor"),
    "it1/adapter": ("dpo-it1", "RayTrainWorker"),
}
"""Phases, with their progress files and an actor that works in them."""


def kill_raylet(node: Node, in_time: Callable[[], bool]) -> None:
    """Kills a raylet with SIGKILL; what it started ends by itself. Fails if it is not ``in_time`` then."""
    raylet = node.raylet()
    assert raylet is not None
    raylet.kill()
    assert in_time()
    node.process.wait(60)


def test_a_run_whose_second_raylet_is_killed_in_its_phases_ends_with_the_files_of_an_undisturbed_one(run, tmp_path):
    job = run.submit(tmp_path / "job.log")
    for phase, (log, actor) in INSIDE.items():
        node = run.cluster.join()
        job.wait_until(in_phase(run, phase, log))
        assert node.has(actor), f"{phase}: no {actor} works on the second raylet"
        kill_raylet(node, lambda phase=phase: not (run.root / phase).exists())
    run.cluster.join()
    assert job.wait() == 0, job.log.read_text()[-4000:]
    assert made(run.root) == made(run.undisturbed)  # each phase once: the driver has lived on
    compare(run.root, run.undisturbed)
    assert verify(run.root).sound


def test_a_job_that_is_stopped_as_the_script_says_resumes_when_it_is_submitted_again(run, tmp_path):
    phase, log = "base/discriminator", INSIDE["base/discriminator"][0]
    run.cluster.join()
    job = run.submit(tmp_path / "job.log")
    job.wait_until(in_phase(run, phase, log))
    subprocess.run(job.stop_command, env=run.cluster.environment, check=True, capture_output=True)
    assert job.wait() == 1 and "stopped" in job.log.read_text()
    assert not (run.root / phase).exists()
    status = status_of(run.root)
    assert status.driver.state in ("interrupted", "killed") and status.driver.phase == phase
    again = run.submit(tmp_path / "again.log")
    assert again.wait() == 0, again.log.read_text()[-4000:]
    assert "base/simulated: already done" in again.log.read_text()
    compare(run.root, run.undisturbed)
