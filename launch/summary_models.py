"""Which language model writes summaries: one behind an endpoint, or one that runs here for as long as the command."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rlenv.completers import Completer, EndpointCompleter, EngineCompleter
from rlenv.cutting import CountTokens
from rlenv.errors import ConfigError
from rlenv.summaries import estimate_tokens


@contextmanager
def summary_model(
    base_url: str | None, model: str | None, key_env: str | None, engine_model: Path | None, *, log_dir: Path
) -> Iterator[tuple[Completer, CountTokens]]:
    """Gives the model and the function that counts its tokens (estimated, where the model is elsewhere).

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
    with _engine(engine_model, log_dir) as completer:
        yield completer, completer.count_tokens


@contextmanager
def _engine(folder: Path, log_dir: Path) -> Iterator[EngineCompleter]:
    from transformers import AutoTokenizer

    from actors.engine_config import EngineConfig
    from actors.pool import EnginePool
    from launch.config import RayConfig
    from launch.serving import cluster

    tokenizer = AutoTokenizer.from_pretrained(folder)
    config = EngineConfig(model=str(folder.resolve()), name="summaries", log_dir=str(log_dir.resolve()), max_loras=0)
    with cluster(RayConfig()), EnginePool(config) as pool:
        yield EngineCompleter(pool, tokenizer, folder.resolve().name)
