"""Ctrl-C and SIGTERM end a command with a sentence that says how to go on."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

import launch.adversarial.algorithm
import launch.adversarial.table
from launch.cli.main import app


@pytest.fixture(autouse=True)
def interrupted(monkeypatch):
    """Whatever a command does ends with Ctrl-C."""

    def stop(*_args, **_named):
        raise KeyboardInterrupt

    monkeypatch.setattr(launch.adversarial.algorithm, "run_adversarial", stop)
    monkeypatch.setattr(launch.adversarial.table, "print_report", stop)


def test_a_command_that_can_go_on_says_so(tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text("{}")
    result = CliRunner().invoke(app, ["adversarial", str(config)])
    assert result.exit_code == 130 and "interrupted; run the same command again to go on" in result.output


def test_other_commands_say_that_they_were_interrupted(tmp_path):
    result = CliRunner().invoke(app, ["table", str(tmp_path)])
    assert result.exit_code == 130 and result.output.strip() == "interrupted"


@pytest.mark.slow
@pytest.mark.ray
def test_sigterm_ends_a_run_like_ctrl_c_although_ray_would_abort_it(tmp_path):
    (tmp_path / "c.yaml").write_text("{}")
    code = """
import pathlib, time
import launch.adversarial.algorithm as algorithm
from launch.cli.main import main
from launch.run.config.run import RayConfig
from launch.run.cluster.connection import cluster

def run(config):
    with cluster(RayConfig(num_cpus=1)):
        pathlib.Path("running").touch()
        time.sleep(300)

algorithm.run_adversarial = run
main()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code, "adversarial", "c.yaml"], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    while not (tmp_path / "running").exists() and process.poll() is None:
        time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 143, said
    assert said.strip().endswith("interrupted; run the same command again to go on") and "SIGTERM" not in said
