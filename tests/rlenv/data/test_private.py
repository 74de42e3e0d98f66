"""Files that hold conversations are their owner's alone, unless a group shares them on purpose."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from launch.run.directory import RunDirectory
from rlenv.core.errors import ConfigError
from rlenv.core.files import write_json
from rlenv.data.private import file_mask, make_private, private_files

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def usual_mask(monkeypatch):
    monkeypatch.delenv("RLENV_UMASK", raising=False)
    before = os.umask(0o022)
    yield
    os.umask(before)


def modes(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root.parent)): oct(stat.S_IMODE(path.lstat().st_mode)) for path in (root, *root.rglob("*"))
    }


def make_run(root: Path) -> None:
    run = RunDirectory(root)
    with run.locked():
        run.open({"seed": 1})
        run.once("data", lambda folder: write_json(folder / "counts.json", {}))
        foreign = run.path("logs/foreign.log")  # as of a process on another node, which has its own mask
        foreign.touch()
        foreign.chmod(0o644)


def test_a_run_is_its_owners_alone(tmp_path):
    make_run(tmp_path / "run")
    found = modes(tmp_path / "run")
    assert found.pop("run") == found.pop("run/data") == found.pop("run/logs") == "0o700"
    assert len(found) >= 5 and set(found.values()) == {"0o600"}
    assert os.umask(0o022) == 0o022  # the caller's mask is his again


def test_the_group_reads_a_run_where_the_variable_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("RLENV_UMASK", "027")
    make_run(tmp_path / "run")
    found = modes(tmp_path / "run")
    assert found["run"] == "0o750" and found["run/data/counts.json"] == found["run/logs/foreign.log"] == "0o640"


def test_a_run_of_an_older_version_becomes_private_when_it_is_resumed(tmp_path):
    old = tmp_path / "run" / "base" / "adapter"
    old.mkdir(parents=True)
    (old / "weights").touch()
    assert modes(tmp_path / "run")["run/base/adapter/weights"] == "0o644"
    with RunDirectory(tmp_path / "run").locked():
        assert modes(tmp_path / "run")["run/base/adapter/weights"] == "0o600"


def test_links_out_of_a_run_are_left_alone(tmp_path):
    outside = tmp_path / "outside"
    outside.touch()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "link").symlink_to(outside)
    make_private(tmp_path / "run")
    assert oct(stat.S_IMODE(outside.stat().st_mode)) == "0o644"


@pytest.mark.parametrize("value", ["7", "x77", "777", "-1", "0o77x"])
def test_a_mask_that_is_no_mask_is_told_with_what_was_expected(value, monkeypatch):
    monkeypatch.setenv("RLENV_UMASK", value)
    if value == "7":
        assert file_mask() == 0o007
        return
    with pytest.raises(ConfigError, match="RLENV_UMASK"), private_files():
        pass


def test_what_a_command_writes_is_private(tmp_path):
    source = tmp_path / "in.jsonl"
    source.write_text('{"session_id": "a", "messages": [{"role": "user", "content": "Hi"}]}\n')
    command = ["import", "chat", str(source), str(tmp_path / "new" / "out.jsonl.gz")]
    done = subprocess.run([sys.executable, "-m", "launch", *command], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert modes(tmp_path / "new") == {"new": "0o700", "new/out.jsonl.gz": "0o600"}
