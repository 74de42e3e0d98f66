"""The manifest of a finished phase: the size and SHA-256 of each file of its folder, written when the phase finishes.

It lies in the phase's folder and so appears with it (``launch.run.directory.RunDirectory.once``). Nothing reads it but
``rlenv verify``: a run that resumes hashes nothing again. Folders made before there were manifests have none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rlenv.core.adapters import MANIFEST
from rlenv.core.errors import DataError, Problem
from rlenv.core.files import RESTORE, read_json, write_json

__all__ = ["MANIFEST", "Fault", "faults", "renew_manifest", "write_manifest"]


@dataclass(frozen=True)
class Fault:
    """What is wrong with one file of a finished phase."""

    file: str
    """Its path below the phase's folder."""
    kind: Literal["missing", "truncated", "changed", "unknown", "unreadable"]
    expected: str = ""
    came: str = ""


def write_manifest(folder: Path) -> None:
    """Writes the manifest of a phase's folder; each file is read once, in blocks."""
    files = {name: {"bytes": path.stat().st_size, "sha256": _sha256(path)} for name, path in _files(folder)}
    write_json(folder / MANIFEST, {"files": files})


def renew_manifest(folder: Path, files: Collection[Path]) -> None:
    """Enters files of a phase that were changed on purpose; the entries of others stay, as does a missing manifest."""
    if not (folder / MANIFEST).exists():
        return
    entries = read_json(folder / MANIFEST)["files"]
    for path in files:
        entries[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": _sha256(path)}
    write_json(folder / MANIFEST, {"files": entries})


def faults(folder: Path) -> list[Fault]:
    """Returns every file of a folder that is not as its manifest says, by name; [] if all are.

    The content of a file is read only if its size is right.

    Raises:
        DataError: the manifest itself is missing or damaged.
    """
    expected = _read(folder / MANIFEST)
    there = dict(_files(folder))
    found = [Fault(name, "unknown", "no such file", f"{there[name].stat().st_size:,} bytes") for name in there
             if name not in expected]  # fmt: skip
    for name, (size, digest) in expected.items():
        if name not in there:
            found.append(Fault(name, "missing", f"{size:,} bytes", "no file"))
            continue
        try:
            actual = there[name].stat().st_size
            if actual != size:
                kind: Literal["truncated", "changed"] = "truncated" if actual < size else "changed"
                found.append(Fault(name, kind, f"{size:,} bytes", f"{actual:,} bytes"))
            elif (other := _sha256(there[name])) != digest:
                found.append(Fault(name, "changed", f"SHA-256 {digest[:12]}...", f"{other[:12]}..."))
        except OSError as error:
            found.append(Fault(name, "unreadable", "a readable file", (error.strerror or "an error").lower()))
    return sorted(found, key=lambda fault: fault.file)


def _read(path: Path) -> dict[str, tuple[int, str]]:
    files = read_json(path).get("files")
    try:
        assert isinstance(files, dict)
        return {str(name): (int(entry["bytes"]), str(entry["sha256"])) for name, entry in files.items()}
    except (AssertionError, KeyError, TypeError, ValueError):
        raise DataError(
            [Problem(str(path), None, "files", "the size and SHA-256 of each file", "something else", RESTORE)]
        ) from None


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yields the name and path of each file below a folder, without the manifest itself."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != MANIFEST:
            yield name, path


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
