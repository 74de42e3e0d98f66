"""Folders that appear complete or not at all, and damaged files of a run."""

import os
from pathlib import Path

import pytest

from rlenv.core.errors import DataError, PhaseError
from rlenv.core.files import new_folder, read_json, read_json_lines, write_atomic


def test_a_folder_gets_its_name_only_when_it_is_completely_written(tmp_path):
    with new_folder(tmp_path / "deep" / "out") as folder:
        (folder / "a").write_text("a")
        assert folder.parent == tmp_path / "deep" and not (tmp_path / "deep" / "out").exists()
    assert (tmp_path / "deep" / "out" / "a").read_text() == "a"
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["out"]


def test_an_interrupted_folder_leaves_nothing_and_leftovers_of_a_kill_are_discarded(tmp_path):
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "out") as folder:
        (folder / "half").write_text("")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "half").write_text("")
    with new_folder(tmp_path / "out") as folder:
        assert list(folder.iterdir()) == []


def test_an_existing_folder_is_rejected_before_any_work(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(PhaseError, match="exists already"), new_folder(tmp_path / "out"):
        raise AssertionError
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_folder_is_replaced_completely_and_kept_if_its_replacement_fails(tmp_path):
    for name in ("old", "new"):
        with new_folder(tmp_path / "out", replace=True) as folder:
            (folder / name).write_text("")
    with pytest.raises(RuntimeError), new_folder(tmp_path / "out", replace=True):
        raise RuntimeError
    assert [p.relative_to(tmp_path).as_posix() for p in sorted(tmp_path.rglob("*"))] == ["out", "out/new"]


def test_everything_in_a_folder_is_on_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    synced: list[str] = []

    def fsync(handle: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{handle}")).relative_to(tmp_path).as_posix())
        if len(synced) < 4:
            assert not (tmp_path / "out").exists()

    monkeypatch.setattr(os, "fsync", fsync)
    with new_folder(tmp_path / "out", partial="part") as folder:
        (folder / "sub").mkdir()
        (folder / "sub" / "a").write_text("a")
    assert sorted(synced[:3]) == ["part", "part/sub", "part/sub/a"] and synced[3:] == ["."]


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"[1]", b"\xff", b"null", b"{}" * 2])
def test_a_damaged_file_of_a_run_is_told_with_its_name_and_what_to_do(tmp_path, content):
    path = tmp_path / "metrics.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"metrics\.json: .*restore it from a copy"):
        read_json(path)
    lines = tmp_path / "rows.jsonl"
    lines.write_bytes(b'{"a": 1}\n' + (content or b"{"))
    with pytest.raises(DataError, match=r"rows\.jsonl:2: .*restore it from a copy"):
        read_json_lines(lines)


def test_a_missing_and_a_truncated_file_of_a_run_are_told(tmp_path):
    with pytest.raises(DataError, match=r"none\.json: .*no file with this name"):
        read_json(tmp_path / "none.json")
    path = tmp_path / "rows.jsonl.gz"
    write_atomic(path, [b'{"a": 1}\n'] * 500)
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(DataError, match=r"rows\.jsonl\.gz: .*broken or truncated"):
        read_json_lines(path)
