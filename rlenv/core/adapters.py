"""Reads a version of a LoRA adapter from its folder: its name, a digest of the files, and why it cannot be served.

A new version always has a new folder and a new digest, because an engine that has loaded a folder would continue to
serve the old weights. Independent of training and serving.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rlenv.core.canary import CANARY
from rlenv.core.errors import ConfigError
from rlenv.core.files import describe
from rlenv.core.settings import shown
from rlenv.core.types import Adapter

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
CARD = "README.md"
"""The model card."""
MANIFEST = "manifest.json"
"""The list of the files of a run's phase (``launch.run.manifest``), which is no part of an adapter."""
Shapes = Mapping[str, tuple[int, ...]]
"""The shape of each tensor of a file by its name."""
ABSENT = {"bias": ("none",), "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal", "mica", "lora_ga")}
"""Settings of PEFT that a plain LoRA adapter has, where they are set at all."""
UNSUPPORTED = (
    "use_dora", "modules_to_save", "lora_bias", "layer_replication", "alora_invocation_tokens", "use_bdlora",
    "use_qalora",
)  # fmt: skip
"""Settings of PEFT that a plain LoRA adapter does not have."""


def folder_digest(path: str | Path) -> str:
    """Returns the SHA-256 of the names and contents of a folder's files, in sorted order, hexadecimal.

    The model card, an adapter's canary and a manifest do not count: equal weights have equal digests, whatever is told
    of them and wherever their log-probs were computed.
    """
    root = Path(path)
    digest = hashlib.sha256()
    beside = (root / CARD, root / CANARY, root / MANIFEST)
    for file in sorted(p for p in root.rglob("*") if p.is_file() and p not in beside):
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
    if not (root / ADAPTER_CONFIG).is_file() or not (root / ADAPTER_WEIGHTS).is_file():
        raise ConfigError(
            f"{root}: expected a PEFT adapter ({ADAPTER_CONFIG} and {ADAPTER_WEIGHTS}), "
            f"got {'a folder without them' if root.is_dir() else 'no such folder'}; train one or correct the path"
        )
    return Adapter(name=name, path=str(root), digest=folder_digest(root))


def adapter_problems(path: str | Path, max_rank: int, base: Shapes | None = None, *, plain: bool = True) -> list[str]:
    """Returns why an engine cannot serve the adapter in a folder; [] if it can.

    Only the heads of files are read.

    Args:
        path: the adapter's folder.
        max_rank: the largest rank that the engine takes.
        base: the tensors of the base model (``model_shapes``); None does not compare them.
        plain: whether the engine takes only plain LoRA, as vLLM does.
    """
    root = Path(path)
    try:
        config = json.loads((root / ADAPTER_CONFIG).read_text())
    except (OSError, ValueError, RecursionError):
        return [f"{ADAPTER_CONFIG} cannot be read: it is no JSON in UTF-8; copy the folder again"]
    if not isinstance(config, dict):
        return [f"{ADAPTER_CONFIG}: expected settings in {{ }}, got {describe(config)}; copy the folder again"]
    ranks = config.get("rank_pattern") or {}
    ranks = {"r": config.get("r"), **(ranks if isinstance(ranks, dict) else {"rank_pattern": ranks})}
    if wrong := [name for name, value in ranks.items() if type(value) is not int or value < 1]:
        came = describe(ranks[wrong[0]])
        return [f"{ADAPTER_CONFIG}: {wrong[0]}: expected a rank of 1 or more, got {came}; copy the folder again"]
    rank = max(ranks.values())
    if config.get("peft_type", "LORA") != "LORA":
        return [f"peft_type: expected LORA, got {shown(config['peft_type'])}"]
    came = f"rank: expected {max_rank} or less, got {shown(rank)}; raise max_lora_rank"
    problems = [came] if rank > max_rank else []
    if plain:
        problems += list(_not_plain(config))
    try:
        tensors = tensor_shapes(root / ADAPTER_WEIGHTS)
    except ConfigError as error:
        return [*problems, str(error)]
    return problems + _misfits(tensors, base, str(config.get("base_model_name_or_path"))) if base else problems


def _not_plain(config: Mapping[str, Any]) -> Iterator[str]:
    for name in UNSUPPORTED:
        if config.get(name):
            yield f"{name}: {shown(config[name])} cannot be served; train a LoRA adapter without it"
    for name, allowed in ABSENT.items():
        if config.get(name, allowed[0]) not in allowed:
            yield f"{name}: {shown(config[name])} cannot be served; train a LoRA adapter without it"


def _misfits(tensors: Shapes, base: Shapes, trained_on: str) -> list[str]:
    """Returns how the matrices of an adapter do not fit the base model's."""
    found, wrong = 0, []
    for name, shape in sorted(tensors.items()):
        module, _, kind = name.removeprefix("base_model.model.").partition(".lora_")
        if kind not in ("A.weight", "B.weight") or (whole := base.get(f"{module}.weight")) is None:
            continue
        found += 1
        if len(shape) != 2 or len(whole) != 2:
            wrong.append(f"{module}: expected a matrix, got {len(shape)} dimensions")
            continue
        expected, came = (whole[1], shape[1]) if kind[0] == "A" else (whole[0], shape[0])
        if expected != came:
            wrong.append(f"{module}: expected a width of {expected}, got {came}")
    way_out = f"it was trained on {trained_on}; serve it on that base model"
    if wrong:
        return [f"{len(wrong)} of its matrices do not fit the base model, the first {wrong[0]}; {way_out}"]
    return [] if found else [f"none of its matrices belongs to a part of the base model; {way_out}"]


def tensor_shapes(path: str | Path) -> dict[str, tuple[int, ...]]:
    """Returns the shape of each tensor of a safetensors file, from the head of the file.

    Raises:
        ConfigError: the file cannot be read, or is shorter than its head says, as a copy that was broken off.
    """
    file = Path(path)
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            head = json.loads(stream.read(length)) if length <= size else {}
        tensors = {name: value for name, value in head.items() if name != "__metadata__"}
        expected = 8 + length + max([value["data_offsets"][1] for value in tensors.values()], default=0)
        shapes = {name: tuple(value["shape"]) for name, value in tensors.items()}
        if not all(type(width) is int for shape in shapes.values() for width in shape):
            raise ValueError("a shape that is no list of numbers")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        raise ConfigError(
            f"{file}: this is not a whole safetensors file: its head is missing or damaged; copy it again"
        ) from None
    if size != expected or not shapes:
        raise ConfigError(f"{file}: expected {expected} bytes, got {size}; the file was cut off, copy it again")
    return shapes


def model_shapes(folder: str | Path) -> dict[str, tuple[int, ...]] | None:
    """Returns the shape of each tensor of a checkpoint; None if the folder has no weights, or quantized ones."""
    root = Path(folder)
    files = sorted(root.glob("*.safetensors"))
    try:
        if not files or "quantization_config" in json.loads((root / "config.json").read_text()):
            return None
        return {name: shape for file in files for name, shape in tensor_shapes(file).items()}
    except (OSError, ValueError, ConfigError):
        return None  # the engine tells what is wrong with its model


def tidy_adapter(out_dir: str | Path) -> None:
    """Removes what differs between saves of equal weights: PEFT's model card, and the order of its sets."""
    root = Path(out_dir)
    (root / CARD).unlink(missing_ok=True)
    file = root / ADAPTER_CONFIG
    settings = json.loads(file.read_text())
    for key, value in settings.items():
        if isinstance(value, list) and all(isinstance(v, str) for v in value):
            settings[key] = sorted(value)
    file.write_text(json.dumps(settings, indent=2, sort_keys=True))
