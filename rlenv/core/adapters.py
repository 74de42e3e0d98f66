"""Reads a version of a LoRA adapter from its folder: the version's name and a digest of the files.

A new version always has a new folder and a new digest, because an engine that has loaded a folder would continue to
serve the old weights. Independent of training and serving.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from rlenv.core.errors import ConfigError
from rlenv.core.types import Adapter

ADAPTER_CONFIG = "adapter_config.json"


def folder_digest(path: str | Path) -> str:
    """Returns the SHA-256 of the names and contents of a folder's files, in sorted order, hexadecimal."""
    root = Path(path)
    digest = hashlib.sha256()
    for file in sorted(p for p in root.rglob("*") if p.is_file()):
        name = file.relative_to(root).as_posix().encode()
        digest.update(len(name).to_bytes(8, "big") + name + file.stat().st_size.to_bytes(8, "big"))
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def adapter_at(path: str | Path, name: str) -> Adapter:
    """Returns the adapter in the folder ``path``, as version ``name``.

    Raises:
        ConfigError: the folder has no PEFT adapter.
    """
    root = Path(path).resolve()
    weights = [*root.glob("adapter_model.*")]
    if not (root / ADAPTER_CONFIG).is_file() or not weights:
        raise ConfigError(
            f"{root}: expected a PEFT adapter ({ADAPTER_CONFIG} and adapter_model.*), "
            f"got {'a folder without them' if root.is_dir() else 'no such folder'}; train one or correct the path"
        )
    return Adapter(name=name, path=str(root), digest=folder_digest(root))


def tidy_adapter(out_dir: str | Path) -> None:
    """Removes what differs between saves of equal weights: the model card, and the order of PEFT's sets."""
    root = Path(out_dir)
    (root / "README.md").unlink(missing_ok=True)
    file = root / ADAPTER_CONFIG
    settings = json.loads(file.read_text())
    for key, value in settings.items():
        if isinstance(value, list) and all(isinstance(v, str) for v in value):
            settings[key] = sorted(value)
    file.write_text(json.dumps(settings, indent=2, sort_keys=True))
