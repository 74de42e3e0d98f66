"""``rlenv forget RUN --user ID``: takes a person's sessions out of a run, and tells which weights have seen them.

Gone are the person's real sessions, the simulated ones of their contexts, and the scores, pairs and alternatives of
those. Every other line of a file stays as it is, byte for byte, and files without such lines are not touched. Each file
is replaced at once; ``data/`` comes last, so that a call that was interrupted can be made again. Weights cannot forget:
the adapters and discriminators that were trained on the person are listed, to be deleted or trained anew.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launch.run.contents import FURTHER_SFT, check_run, run_settings, version_order
from launch.run.directory import RunDirectory
from launch.run.manifest import MANIFEST, renew_manifest
from rlenv.core.errors import ConfigError, DataError
from rlenv.core.files import damaged, open_binary, write_atomic
from rlenv.core.types import context_of

IDS = ("session_id", "context_id", "episode_id")
INSIDE = ("state", "episode", "session")
"""Fields of a record that hold the record with the ids."""
OTHERS = (".html", ".md", ".txt", ".csv", ".tex", ".log", ".yaml")
"""Suffixes of files that can quote a session and cannot be rewritten line by line."""


@dataclass
class Forgotten:
    """What was found of a person in a run."""

    num_sessions: int
    """Real sessions."""
    records: dict[str, int] = field(default_factory=dict)
    """Lines that are removed, by file."""
    adapters: list[str] = field(default_factory=list)
    """Folders of adapters that were trained on the person's words, or on adapters that were."""
    discriminators: list[str] = field(default_factory=list)
    """Folders of discriminators that were trained on the person's words."""
    quoting: list[str] = field(default_factory=list)
    """Files that name one of the person's sessions and are left: reports and pages, to be made anew or deleted."""


def forget(root: str | Path, user: str, *, dry_run: bool = False) -> Forgotten:
    """Removes a user's sessions and all that was made from them from a run; returns what was found.

    Args:
        root: a run directory, of any kind.
        user: the user's id, as in the sessions file.
        dry_run: look and change nothing.

    Raises:
        ConfigError: the folder holds no run, a driver is running in it, or it has no session of this user.
        DataError: a file is damaged.
    """
    check_run(root)
    folder = Path(root)
    if RunDirectory(folder).state().state == "running":
        raise ConfigError(f"{folder}: a driver is running in this folder; wait for it, or stop it first")
    files = sorted(_record_files(folder), key=lambda path: (path.relative_to(folder).parts[0] == "data", path))
    ids, own = _ids_of(folder, files, user)
    if not ids:
        raise ConfigError(
            f"{folder}: no session of the user {user!r}; give the user_id as it stands in the sessions file"
        )
    found = Forgotten(len(own))
    for path in files:
        kept, removed = _without(path, user, ids)
        if removed:
            found.records[str(path.relative_to(folder))] = removed
    found.adapters, found.discriminators = _trained_on(folder, user, ids, found.records)
    found.quoting = [name for path in _others(folder) for name in [str(path.relative_to(folder))] if _names(path, ids)]
    if not dry_run:
        for name in found.records:
            kept, _ = _without(folder / name, user, ids)
            write_atomic(folder / name, kept)
        _renew_manifests([folder / name for name in found.records])
    return found


def _renew_manifests(changed: Collection[Path]) -> None:
    """Enters the changed files in the manifests of their phases, so that ``rlenv verify`` knows them as they are."""
    phases: dict[Path, list[Path]] = {}
    for path in changed:
        phase = next((parent for parent in path.parents if (parent / MANIFEST).is_file()), None)
        if phase is not None:
            phases.setdefault(phase, []).append(path)
    for phase, files in phases.items():
        renew_manifest(phase, files)


def _record_files(folder: Path) -> Iterator[Path]:
    """Yields the files with records: JSON lines, and the discriminators' lists of validation sessions."""
    for path in folder.rglob("*"):
        lines = path.name.endswith((".jsonl", ".jsonl.gz")) and path.parent.name != "logs" and path.parent != folder
        if path.is_file() and (lines or path.name == "validation.json"):
            yield path


def _others(folder: Path) -> Iterator[Path]:
    return (path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix in OTHERS)


def _names(path: Path, ids: Collection[str]) -> bool:
    text = path.read_text("utf-8", "replace")
    return any(name in text for name in ids)


def _ids_of(folder: Path, files: Collection[Path], user: str) -> tuple[set[str], set[str]]:
    """Returns the ids of all sessions and contexts of a user, and those of the real sessions among them."""
    sources = list(files)
    other = run_settings(folder).get("run")  # of a chatbot's training: the adversarial run whose contexts it uses
    if isinstance(other, str):
        sources += [path for path in Path(other).glob("data/*.jsonl.gz") if path.is_file()]
    ids: set[str] = set()
    own: set[str] = set()
    for path in sources:
        for record in _records(path):
            if _user_of(record) != user:
                continue
            names = {context_of(record[key]) for key in IDS if isinstance(record.get(key), str)}
            ids |= names
            if path.parent.name == "data":
                own |= names
    return ids, own


def _user_of(record: dict[str, Any]) -> Any:
    """Returns the user of a session; without one, a session is a user of its own."""
    return record.get("user_id") or (record.get("session_id") if "messages" in record else None)


def _belongs(record: Any, user: str, ids: Collection[str]) -> bool:
    if not isinstance(record, dict):
        return False
    if _user_of(record) == user or any(isinstance(record.get(k), str) and context_of(record[k]) in ids for k in IDS):
        return True
    return any(_belongs(record.get(key), user, ids) for key in INSIDE)


def _records(path: Path) -> Iterator[dict[str, Any]]:
    if path.suffix == ".json":
        yield from (record for record in _parsed(path, path.read_bytes()) if isinstance(record, dict))
        return
    for number, line in enumerate(_lines(path), start=1):
        if line.strip():
            record = _parsed(path, line, number)
            if isinstance(record, dict):
                yield record


def _without(path: Path, user: str, ids: Collection[str]) -> tuple[list[bytes], int]:
    """Returns the content of a file without a user's records, and their number."""
    if path.suffix == ".json":
        records = _parsed(path, path.read_bytes())
        kept = [record for record in records if not _belongs(record, user, ids)]
        return [json.dumps(kept).encode()], len(records) - len(kept)
    lines, removed = [], 0
    for number, line in enumerate(_lines(path), start=1):
        if line.strip() and _belongs(_parsed(path, line, number), user, ids):
            removed += 1
        else:
            lines.append(line)
    return lines, removed


def _lines(path: Path) -> list[bytes]:
    try:
        with open_binary(path) as file:
            return file.readlines()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError([damaged(path, error)]) from None


def _parsed(path: Path, text: bytes, line: int | None = None) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError([damaged(path, error, f"{path}:{line}" if line else "")]) from None


def _trained_on(folder: Path, user: str, ids: Collection[str], records: dict[str, int]) -> tuple[list[str], list[str]]:
    """Returns the folders of the adapters and of the discriminators that were trained on a user's words."""
    settings = run_settings(folder)
    limit = (settings.get("data") or {}).get("max_sft_sessions")
    sft = folder / "data" / "sft.jsonl.gz"
    in_sft = sft.is_file() and any(_belongs(record, user, ids) for record in list(_records(sft))[:limit])
    in_adversarial = "data/adversarial.jsonl.gz" in records
    adapters = sorted(
        (path.parent.parent.name for path in folder.glob("*/adapter/adapter_config.json")), key=version_order
    )
    reached = [name for name in records if name.startswith("rounds/")]  # of a chatbot's training
    touched: list[str] = []
    tainted = in_sft
    for version in adapters:
        if tainted or (version == FURTHER_SFT and in_adversarial) or reached:
            touched.append(f"{version}/adapter")
        tainted |= version == FURTHER_SFT and in_adversarial and settings.get("further_sft") == "first"
        tainted |= f"{version}/preferences/pairs.jsonl" in records
        tainted |= f"{version}/preferences/alternatives.jsonl.gz" in records
    if in_sft:
        touched += sorted(
            str(path.parent.relative_to(folder)) for path in folder.glob("chatbots/*/adapter_config.json")
        )
    simulated = {name.split("/")[0] for name in records if name.endswith("simulated/sessions.jsonl")}
    judges = [
        str(path.parent.relative_to(folder))
        for version in sorted(simulated, key=version_order)
        for path in sorted(folder.glob(f"{version}/discriminator/*/discriminator.json"))
    ]
    return touched, judges if in_adversarial else []
