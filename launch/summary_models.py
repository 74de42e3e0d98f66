"""Which language model writes summaries or judges: one behind an endpoint, or one that runs as long as the command."""

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
    temperature: float = 0.3,
    reasoning_effort: str | None = None,
    structured: bool = False,
) -> Iterator[tuple[Completer, CountTokens]]:
    """Gives the model and the function that counts its tokens (estimated, where the model is elsewhere).

    Args:
        base_url: root of an OpenAI-compatible API, or None.
        model: the model's name there.
        key_env: NAME of the environment variable that holds the key.
        engine_model: folder of a checkpoint to run here, or None.
        num_positions: longest question and answer together, for an engine of ours.
        log_dir: where that engine writes its log.
        temperature: of sampling.
        reasoning_effort: of a reasoning model behind an endpoint.
        structured: that engine can hold its answers to a JSON schema.

    Raises:
        ConfigError: neither or both are asked for, or the folder holds no model.
    """
    if bool(base_url) == bool(engine_model):
        raise ConfigError("name one model: --base-url and --model for an endpoint, or --engine-model for a folder")
    if base_url:
        if not model:
            raise ConfigError("--base-url needs --model, the model's name there")
        endpoint = EndpointCompleter(
            base_url, model, key_env, temperature=temperature, reasoning_effort=reasoning_effort
        )
        yield endpoint, estimate_tokens
        return
    assert engine_model is not None
    if not (engine_model / "config.json").is_file():
        raise ConfigError(f"--engine-model {engine_model}: no checkpoint there; expected a folder with config.json")
    with _engine(engine_model, num_positions, log_dir, temperature, structured) as completer:
        yield completer, completer.count_tokens


@contextmanager
def _engine(
    folder: Path, num_positions: int, log_dir: Path, temperature: float, structured: bool
) -> Iterator[EngineCompleter]:
    from transformers import AutoTokenizer

    from actors.engine_config import EngineConfig
    from actors.pool import EnginePool
    from launch.config import RayConfig
    from launch.serving import cluster

    tokenizer = AutoTokenizer.from_pretrained(folder)
    config = EngineConfig(
        model=str(folder.resolve()),
        name="judge" if structured else "summaries",
        log_dir=str(log_dir.resolve()),
        max_loras=0,
        max_model_len=num_positions,
        structured=structured,
    )
    with cluster(RayConfig()), EnginePool(config) as pool:
        name = str(folder.resolve())
        yield EngineCompleter(pool, tokenizer, name, temperature=temperature, structured=structured)
