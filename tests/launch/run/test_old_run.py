"""A run directory that version 0.1.0 wrote before the packages were rearranged: it opens, evaluates and resumes.

``data/run_of_0.1.0.tar.xz`` is the tiny run of ``tests/launch/conftest.py``, one iteration, without the weights of its
controls. ``@RUN@`` stands for its path.
"""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from typer.testing import CliRunner

from launch.adversarial.algorithm import run_adversarial
from launch.adversarial.run import AdversarialRun
from launch.cli.main import app
from launch.run.contents import discriminator_checkpoint, simulated_versions, simulator_versions
from launch.run.directory import RunDirectory
from launch.run.settings import load_config

ARCHIVE = Path(__file__).with_name("data") / "run_of_0.1.0.tar.xz"


@pytest.fixture
def old_run(tmp_path: Path) -> Path:
    root = tmp_path / "old"
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(root, filter="data")
    for path in root.rglob("*"):
        if path.suffix in (".yaml", ".json") and "@RUN@" in (text := path.read_text()):
            path.write_text(text.replace("@RUN@", str(root)))
    return root


def test_its_models_versions_and_sessions_are_found(old_run):
    run, config = RunDirectory(old_run), load_config(old_run / "config.yaml")
    assert [*simulator_versions(run, config)] == simulated_versions(old_run) == ["base", "it1"]
    assert discriminator_checkpoint(run, config).parent == old_run / "it1/discriminator"
    runner = CliRunner()
    assert "it1" in runner.invoke(app, ["table", str(old_run)], catch_exceptions=False).stdout
    assert "base" in runner.invoke(app, ["transcripts", str(old_run)], catch_exceptions=False).stdout


def test_it_is_evaluated(old_run, tmp_path):
    out = tmp_path / "report"
    called = CliRunner().invoke(app, ["evaluate", str(old_run), "--out", str(out), "--no-embeddings"])
    assert called.exit_code == 0, called.output
    simulators = json.loads((out / "metrics.json").read_text())["simulators"]
    assert [row["name"] for row in simulators] == ["base", "it1"]


def test_an_env_is_made_of_it(old_run):
    env = gym.make("rlenv/User-v0", config=str(old_run))
    _, info = env.reset(seed=1)
    assert info["counterpart"] in AdversarialRun(load_config(old_run / "config.yaml")).chatbots
    env.close()


@pytest.mark.slow
@pytest.mark.ray
def test_a_phase_that_is_missing_is_made_again_with_the_same_figures_and_no_other(old_run, local_ray):
    missing, finished = old_run / "it1/measures", (old_run / "timings.jsonl").read_text()
    before = json.loads((missing / "metrics.json").read_text())
    rows = read_rows(old_run)
    shutil.rmtree(missing)
    run_adversarial(load_config(old_run / "config.yaml"))
    after = json.loads((missing / "metrics.json").read_text())
    assert {key: after[key] for key in before} == before  # newer versions measure more
    assert [{key: row[key] for key in old} for row, old in zip(read_rows(old_run), rows, strict=True)] == rows
    made = [json.loads(line)["phase"] for line in (old_run / "timings.jsonl").read_text()[len(finished) :].splitlines()]
    assert made == ["it1/measures"]


def read_rows(root: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / "metrics.jsonl").read_text().splitlines()]
