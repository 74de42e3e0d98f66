"""Which language model writes summaries: one behind an endpoint, or one that runs here for as long as the command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rlenv.completers import Completer, EndpointCompleter, EngineCompleter
from rlenv.cutting import CountTokens, estimate_tokens
from rlenv.errors import ConfigError


@contextmanager
def summary_model(
    base_url: str | None,
    model: str | None,
    key_env: str | None,
    engine_model: Path | None,
    *,
    num_positions: int,
    log_dir: Path,
) -> Iterator[tuple[Completer, CountTokens]]:
    """Gives the model and the function that counts its tokens (estimated, where the model is elsewhere).

    Args:
        base_url: root of an OpenAI-compatible API, or None.
        model: the model's name there.
        key_env: NAME of the environment variable that holds the key.
        engine_model: folder of a checkpoint to run here, or None.
        num_positions: longest question and answer together, for an engine of ours.
        log_dir: where that engine writes its log.

    Raises:
        ConfigError: neither or both are asked for, or the folder holds no model.
    """
    if bool(base_url) == bool(engine_model):
        raise ConfigError("name one model: --base-url and --model for an endpoint, or --engine-model for a folder")
    if base_url:
        if not model:
            raise ConfigError("--base-url needs --model, the model's name there")
        yield EndpointCompleter(base_url, model, key_env), estimate_tokens
        return
    assert engine_model is not None
    if not (engine_model / "config.json").is_file():
        raise ConfigError(f"--engine-model {engine_model}: no checkpoint there; expected a folder with config.json")
    with _engine(engine_model, num_positions, log_dir) as completer:
        yield completer, completer.count_tokens


@contextmanager
def _engine(folder: Path, num_positions: int, log_dir: Path) -> Iterator[EngineCompleter]:
    from transformers import AutoTokenizer

    from actors.engine_config import EngineConfig
    from actors.pool import EnginePool
    from launch.config import RayConfig
    from launch.serving import cluster

    tokenizer = AutoTokenizer.from_pretrained(folder)
    config = EngineConfig(
        model=str(folder.resolve()),
        name="summaries",
        log_dir=str(log_dir.resolve()),
        max_loras=0,
        max_model_len=num_positions,
    )
    with cluster(RayConfig()), EnginePool(config) as pool:
        yield EngineCompleter(pool, tokenizer, str(folder.resolve()))
