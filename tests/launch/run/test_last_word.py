"""A driver that is ended without a word has it said by another process, with the way on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from launch.run.cluster.connection import ENDED

DRIVER = """
import os, signal, sys
from launch.run.cluster.connection import _last_word
with _last_word():
    if sys.argv[1] == "within":
        os.kill(os.getpid(), signal.SIGKILL)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("killed, told", [("within", f"error {ENDED}\n"), ("after", "")])
def test_a_process_that_is_killed_is_told_unless_it_has_said_goodbye(killed, told):
    ended = subprocess.run([sys.executable, "-c", DRIVER, killed], stderr=subprocess.PIPE, text=True, timeout=60)
    assert ended.returncode == -9 and ended.stderr == told


@pytest.mark.slow
@pytest.mark.ray
def test_a_driver_whose_raylet_ends_says_that_the_same_command_goes_on(write_config, start_driver, tmp_path):
    root = tmp_path / "run"
    driver = start_driver(write_config(out_dir=str(root)))
    driver.wait_for("models/small-llama: started")
    driver.wait_until(lambda d: d.has_process("TrainController"))
    driver.kill_one("RuntimeEnvAgent")  # its raylet ends itself
    assert driver.process.wait(120) == 1
    driver._reader.join(10)
    told = [line for line in driver.lines if line.startswith("error ")]
    assert len(told) == 1 and told[0].endswith("what is finished is kept: run the same command again to go on")
    assert not any(line.startswith("Traceback") for line in driver.lines)
    assert not Path(root / "models" / "small-llama").exists()
