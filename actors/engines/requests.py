"""Checks that every engine makes before it samples, so that a bad request never kills an engine.

Independent of vLLM and transformers. Errors name ids and counts, never tokens or text.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

from actors.engines.config import Backend, EngineConfig
from rlenv.core.adapters import ADAPTER_CONFIG, ADAPTER_WEIGHTS, adapter_problems, folder_digest, model_shapes
from rlenv.core.errors import ConfigError, OverlongError
from rlenv.core.types import Adapter, Sampling


def check_prompt(
    token_ids: Sequence[int], sampling: Sampling, max_model_len: int, vocab_size: int | None = None
) -> None:
    """Raises unless prompt and reply fit ``max_model_len`` positions and every token id is known.

    Raises:
        OverlongError: they do not fit.
        ConfigError: the prompt is empty or has unknown token ids, most likely from another model's tokenizer.
    """
    if len(token_ids) + sampling.max_tokens > max_model_len:
        raise OverlongError(
            f"a prompt of {len(token_ids)} tokens and a reply of up to {sampling.max_tokens} do not fit the engine's "
            f"{max_model_len} positions; cut the prompt, lower max_tokens or raise max_model_len"
        )
    if not token_ids:
        raise ConfigError("the prompt has no tokens; every prompt starts with at least one")
    if vocab_size is not None and not (min(token_ids) >= 0 and max(token_ids) < vocab_size):
        raise ConfigError(
            f"the prompt has token ids up to {max(token_ids)}, but the model knows 0 to {vocab_size - 1}; "
            "were the prompts made with another model's tokenizer?"
        )


def check_schema(sampling: Sampling, structured: bool) -> None:
    """Raises ``ConfigError`` if a JSON schema is requested but the engine does not support schemas."""
    if sampling.json_schema is not None and not structured:
        raise ConfigError(
            "a request has a JSON schema, which this engine does not support; set backend: vllm and structured: true,"
            " or request a free reply and check it"
        )


def check_adapter(adapter: Adapter | None, config: EngineConfig) -> None:
    """Raises ``ConfigError`` unless an engine with these settings can serve the adapter; vLLM would die of it."""
    if adapter is None:
        return
    if config.max_loras == 0:
        raise ConfigError(f"adapter {adapter.name!r}: the engine was started with max_loras 0; set it to 1 or more")
    if config.backend != "scripted":
        check_unchanged(adapter)
    if problems := _problems(adapter, config.model, config.max_lora_rank, config.backend):
        raise ConfigError(f"the adapter {adapter.name!r} at {adapter.path} cannot be loaded: {'; '.join(problems)}")


def check_unchanged(adapter: Adapter) -> None:
    """Raises ``ConfigError`` unless the version's folder still holds what its digest says.

    An engine holds the versions of the last requests in memory, up to ``max_loras``, and loads the others again. So a
    version whose folder is gone, or holds other weights by now, must not be asked for.
    """
    root, version = Path(adapter.path), f"the adapter {adapter.name!r} ({adapter.digest[:12]})"
    try:
        files = [(root / name).stat() for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS)]
    except OSError:
        raise ConfigError(
            f"{version}: expected its files in {root}, and they are gone; the engine cannot load it any more. Copy the "
            "folder back, or train the version again"
        ) from None
    digest = _digest(adapter.path, tuple((file.st_size, file.st_mtime_ns) for file in files))
    if digest != adapter.digest:
        raise ConfigError(
            f"{version}: {root} holds another version by now ({digest[:12]}), which the engine would load in its "
            "place; every version needs a folder of its own"
        )


def adapter_id(adapter: Adapter) -> int:
    """Returns a positive 31-bit number made from the digest, so that a new version has a new number.

    >>> adapter_id(Adapter(name="it1", path="/runs/it1", digest="00000007" + "0" * 56))
    7
    """
    return int(adapter.digest[:8], 16) & 0x7FFFFFFF or 1


def adapter_key(adapter: Adapter) -> str:
    """Returns the name of this version within an engine; unlike ``name`` it is unique to the digest."""
    return f"{adapter.name}-{adapter.digest[:16]}"


@functools.lru_cache(maxsize=256)
def _digest(path: str, stamps: tuple[tuple[int, int], ...]) -> str:
    """Returns a folder's digest; it is computed again when the files' sizes or times (``stamps``) change."""
    return folder_digest(path)


@functools.lru_cache(maxsize=256)
def _problems(adapter: Adapter, model: str, max_rank: int, backend: Backend) -> tuple[str, ...]:
    base = _base_shapes(model) if backend != "scripted" else None
    return tuple(adapter_problems(adapter.path, max_rank, base, plain=backend == "vllm"))


@functools.lru_cache(maxsize=8)
def _base_shapes(model: str) -> dict[str, tuple[int, ...]] | None:
    if not Path(model).is_dir():
        from huggingface_hub import try_to_load_from_cache

        cached = try_to_load_from_cache(model, "config.json")
        return model_shapes(Path(cached).parent) if isinstance(cached, str) else None
    return model_shapes(model)
