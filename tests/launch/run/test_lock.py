"""The lock of a run directory: a second driver is refused by the name of the first, and a dead one's lock is taken."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import launch.run.lock
from launch.reports.status import read_status
from launch.run.directory import RunDirectory
from launch.run.lock import LOCK
from rlenv.core.errors import ConfigError

ROOT = Path(__file__).parents[3]
HOLD = (
    "import sys, time; from launch.run.directory import RunDirectory\n"
    "with RunDirectory(sys.argv[1]).locked():\n    print('in', flush=True); time.sleep(60)\n"
)


@pytest.fixture(autouse=True)
def quick_beats(monkeypatch):
    monkeypatch.setattr(launch.run.lock, "BEAT_S", 0.1)


@pytest.fixture
def other_driver(tmp_path):
    """A driver in another process, which holds the lock of ``tmp_path``."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "in\n"
    yield process
    process.kill()
    process.wait()


def left_by(root: Path, **told: object) -> Path:
    """Writes the lock's file of a driver that did not end."""
    (root / LOCK).write_text(json.dumps({"state": "running", "since": time.time(), "began": time.time(), **told}))
    return root / LOCK


def taken(root: Path) -> bool:
    with RunDirectory(root).locked():
        return RunDirectory(root).state().pid == os.getpid()


def without_locks(monkeypatch) -> None:
    """Makes the file system one that has no locks."""

    def flock(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)


def test_a_second_driver_is_refused_with_the_process_the_host_and_the_start_of_the_first(tmp_path, other_driver):
    with pytest.raises(ConfigError) as refused, RunDirectory(tmp_path).locked():
        pass
    began = time.strftime("%Y-%m-%d", time.gmtime())
    assert (
        f"another driver is running in this folder (process {other_driver.pid} on {platform.node()}, since {began}"
        in str(refused.value)
    )
    assert "another out_dir" in str(refused.value)


def test_the_lock_of_a_driver_that_was_killed_is_taken_at_once(tmp_path, other_driver):
    other_driver.kill()
    other_driver.wait()
    began = time.monotonic()
    assert taken(tmp_path)
    assert time.monotonic() - began < 0.25  # no waiting for signs of life


def test_where_the_file_system_has_no_locks_a_living_driver_is_known_by_its_process(
    tmp_path, other_driver, monkeypatch
):
    without_locks(monkeypatch)
    with pytest.raises(ConfigError, match=f"process {other_driver.pid} on"), RunDirectory(tmp_path).locked():
        pass
    other_driver.kill()
    other_driver.wait()
    assert taken(tmp_path)


def test_a_driver_of_another_host_that_gives_signs_of_life_is_not_disturbed(tmp_path):
    """Where locks are known on one host only, as on some shared file systems."""
    lock = left_by(tmp_path, host="node7", pid=4711)
    ended = threading.Event()

    def live() -> None:
        while not ended.wait(0.1):
            os.utime(lock)

    elsewhere = threading.Thread(target=live)
    elsewhere.start()
    try:
        with pytest.raises(ConfigError, match="process 4711 on node7, since"), RunDirectory(tmp_path).locked():
            pass
        assert RunDirectory(tmp_path).state().state == "running"
    finally:
        ended.set()
        elsewhere.join()
    assert json.loads(lock.read_text())["host"] == "node7"


def test_the_stale_lock_of_another_host_is_taken_when_there_was_no_sign_of_life(tmp_path, caplog):
    lock = left_by(tmp_path, host="node7", pid=4711)
    os.utime(lock, (time.time() - 100,) * 2)
    caplog.set_level("INFO", "launch")
    assert RunDirectory(tmp_path).state().state == "killed"
    assert taken(tmp_path)
    assert any("node7" in message and "sign of life" in message for message in caplog.messages)
    assert RunDirectory(tmp_path).state().state == "finished"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"state": 3}', "\x00" * 40])
def test_a_damaged_lock_keeps_nobody_out(tmp_path, text):
    (tmp_path / LOCK).write_text(text)
    assert taken(tmp_path)


def test_a_driver_gives_signs_of_life_which_are_not_progress(tmp_path):
    (tmp_path / "config.yaml").write_text("run: x\n")
    lock = tmp_path / LOCK
    with RunDirectory(tmp_path).locked():
        first = lock.stat().st_mtime_ns
        time.sleep(0.35)
        assert lock.stat().st_mtime_ns > first
        assert read_status(tmp_path, now=time.time() + 50).last_sign == pytest.approx(50, abs=5)


def test_a_full_disk_is_told_with_the_way_out_and_leaves_nothing_half_written(tmp_path):
    """The limit on the size of a file stands for the disk: writing fails within the phase, in the middle of a file."""
    code = (
        "import resource, signal, sys; from launch.run.directory import RunDirectory\n"
        "from rlenv.core.errors import PhaseError; from rlenv.core.files import write_atomic\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "run = RunDirectory(sys.argv[1])\n"
        "def plain(folder):\n    folder.mkdir(); (folder / 'weights').write_bytes(bytes(9999))\n"
        "def atomic(folder):\n    folder.mkdir(); write_atomic(folder / 'weights', [bytes(9999)])\n"
        "with run.locked():\n"
        "    run.open({})\n"
        "    run.once('data', lambda folder: folder.mkdir())\n"
        "    for make in (plain, atomic):\n"
        "        try:\n            run.once('base/adapter', make)\n"
        "        except PhaseError as error:\n            print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = done.stdout.splitlines()
    assert len(told) == 2
    assert all("base/adapter" in line and "make room and run the same command again" in line for line in told)
    assert not RunDirectory(tmp_path).has("base/adapter") and not list(tmp_path.rglob("*.part*"))
    assert list(RunDirectory(tmp_path).timings()) == ["data"]


def test_a_full_disk_does_not_hide_how_the_run_ended(tmp_path, monkeypatch):
    class Full:
        def __init__(self, file: object) -> None:
            self.file = file

        def fileno(self) -> int:
            return self.file.fileno()  # type: ignore[attr-defined]

        def truncate(self, size: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        write = truncate

    run = RunDirectory(tmp_path)
    with pytest.raises(ValueError, match="the cause"), run.locked():
        run._lock._file = Full(run._lock._file)
        raise ValueError("the cause")
