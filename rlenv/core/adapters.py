"""One version of a LoRA adapter, found in a folder: its name and a digest of what is in it.

A new version is a new folder and a new digest (an engine that knows a folder by name would go on serving the old
weights). Knows nothing of training or serving.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from rlenv.core.errors import ConfigError
from rlenv.core.types import Adapter

ADAPTER_CONFIG = "adapter_config.json"


def folder_digest(path: str | Path) -> str:
    """Returns the SHA-256 over a folder's files in sorted order, names and contents, hexadecimal."""
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
    """Returns the adapter in the folder ``path`` as the version ``name``.

    Raises:
        ConfigError: the folder holds no PEFT adapter.
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
    """Makes a saved adapter's folder a function of its weights: no model card, and PEFT's sets written in order."""
    root = Path(out_dir)
    (root / "README.md").unlink(missing_ok=True)
    file = root / ADAPTER_CONFIG
    settings = json.loads(file.read_text())
    for key, value in settings.items():
        if isinstance(value, list) and all(isinstance(v, str) for v in value):
            settings[key] = sorted(value)
    file.write_text(json.dumps(settings, indent=2, sort_keys=True))
