"""Adapters: the digest is a function of the folder's files."""

from pathlib import Path

import pytest

from rlenv.core.adapters import adapter_at
from rlenv.core.errors import ConfigError


def folder(path: Path, weights: bytes) -> Path:
    path.mkdir()
    (path / "adapter_config.json").write_text("{}")
    (path / "adapter_model.safetensors").write_bytes(weights)
    return path


def test_equal_files_have_equal_digests_in_any_folder(tmp_path: Path) -> None:
    one, same, other = (folder(tmp_path / n, w) for n, w in (("a", b"1"), ("b", b"1"), ("c", b"2")))
    assert adapter_at(one, "it1").digest == adapter_at(same, "it1").digest != adapter_at(other, "it1").digest
    (same / "more.txt").write_text("")
    assert adapter_at(one, "it1").digest != adapter_at(same, "it1").digest
    assert adapter_at(one, "it1").path == str(one.resolve())


def test_a_folder_without_an_adapter_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        adapter_at(tmp_path / "gone", "it1")
    with pytest.raises(ConfigError, match="folder without them"):
        adapter_at(tmp_path, "it1")
