"""A worker that hangs is killed and says so; one that makes progress, or waits as it may, is left alone."""

import signal
import subprocess
import sys

import pytest

from trainers.backend.watch import SILENT

BEGIN = """
import os, signal, sys, time
from rlenv.core.progress import progressed, waiting_for_supervised
from trainers.backend.watch import watched
"""


def run(block: str, arguments: str = "1.0") -> subprocess.CompletedProcess[str]:
    """Runs ``block`` in a process that is watched within it."""
    program = f"{BEGIN}\nwith watched({arguments}):\n    {block}\nprint('done')"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100)


@pytest.mark.parametrize(
    "hang",
    ["time.sleep(90)", "os.kill(os.getpid(), signal.SIGSTOP)", "import re; re.match(r'(a|a)*b', 'a' * 60)"],
    ids=["blocked", "stopped", "without the interpreter"],
)
def test_a_process_that_hangs_is_killed_and_says_so(hang: str) -> None:
    ended = run(hang)
    assert ended.returncode == -signal.SIGKILL and not ended.stdout
    assert f"{SILENT} for 1 s; killing it" in ended.stderr.splitlines()[-1]


def test_the_log_tells_where_it_hangs() -> None:
    assert 'File "<string>"' in run("time.sleep(90)").stderr


@pytest.mark.parametrize(
    ("block", "arguments"),
    [
        ("[(progressed(), time.sleep(0.2)) for _ in range(12)]", "1.0"),
        (
            "w = waiting_for_supervised(); w.__enter__(); time.sleep(2.4); w.__exit__(None, None, None)",
            "1.0",
        ),
        ("time.sleep(2.4)", "1.0, steps=False"),
        ("child = os.fork(); child or (time.sleep(9), os._exit(0))", "60.0"),
    ],
    ids=["slow", "waits for another", "another rank", "has forked"],
)
def test_one_that_makes_progress_or_may_wait_is_left_alone(block: str, arguments: str) -> None:
    ended = run(block, arguments)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "done\n", "")


def test_after_the_block_nothing_is_watched() -> None:
    program = f"{BEGIN}\nwith watched(1.0):\n    pass\ntime.sleep(2)\nprint('done')"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "done\n", "")
