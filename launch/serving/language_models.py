"""Serves the language model of a command or a judge: behind an endpoint, or on an engine that ends with the command.

The command-line options that choose it are defined here once.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from pydantic import PositiveFloat

from rlenv.core.errors import ConfigError
from rlenv.core.settings import Settings, settings
from rlenv.prompting.cutting import CountTokens, estimate_tokens
from rlenv.speakers.completers import Completer, EndpointCompleter, EngineCompleter
from rlenv.speakers.openai_client import TIMEOUT_S
from rlenv.speakers.outside import consent_problems, secret_problems

BaseUrl = Annotated[str | None, typer.Option(help="root URL of an OpenAI-compatible API, as http://host:8000/v1")]
ModelName = Annotated[str | None, typer.Option(help="the model's name at --base-url")]
KeyEnv = Annotated[str | None, typer.Option(help="name of the environment variable that holds the API key")]
AllowExternal = Annotated[bool, typer.Option(help="let conversations go to a --base-url that is not this machine")]
EngineModel = Annotated[
    str | None, typer.Option(help="folder of a chat model to run on this machine, instead of --base-url")
]
TimeoutS = Annotated[float, typer.Option("--timeout-s", help="endpoint: seconds for one attempt of a request")]
Concurrency = Annotated[int, typer.Option(help="number of requests at the same time")]
SamplingSeed = Annotated[int, typer.Option(help="seed of sampling")]
Cache = Annotated[Path | None, typer.Option(help="folder of cached answers; by default OUT.cache")]


@settings
class ModelChoice(Settings):
    """The choice of a language model: behind an endpoint, or on a local engine."""

    base_url: str | None = None
    """Root URL of an OpenAI-compatible API, or None."""
    model: str | None = None
    """The model's name there."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the API key."""
    engine_model: str | None = None
    """Folder of a checkpoint to run on a local engine, or None."""
    reasoning_effort: str | None = None
    """Reasoning effort of a reasoning model behind an endpoint."""
    timeout_s: PositiveFloat = TIMEOUT_S
    """Seconds for one attempt of a request to an endpoint."""
    allow_external: bool = False
    """Whether conversations may go to an endpoint that is not on this machine."""


def cache_folder(cache: Path | None, out: Path) -> Path:
    """Returns the folder of cached answers of a command that writes ``out``."""
    return cache or out.with_name(out.name + ".cache")


@contextmanager
def language_model(
    choice: ModelChoice, *, num_positions: int, log_dir: Path, temperature: float = 0.3, structured: bool = False
) -> Iterator[tuple[Completer, CountTokens]]:
    """Yields the model and a function that counts tokens, which is an estimate for a model behind an endpoint.

    Args:
        choice: the choice of the model.
        num_positions: longest prompt and answer together on a local engine, in tokens.
        log_dir: the folder of the local engine's log.
        temperature: sampling temperature.
        structured: whether a local engine constrains answers to a JSON schema.

    Raises:
        ConfigError: neither or both kinds of model are given, or the folder holds no model.
    """
    folder = Path(choice.engine_model) if choice.engine_model else None
    if bool(choice.base_url) == bool(folder):
        raise ConfigError("give one model: --base-url and --model for an endpoint, or --engine-model for a folder")
    problems = secret_problems(choice.base_url, choice.api_key_env)
    if problems := problems + consent_problems(choice.base_url, choice.allow_external):
        raise ConfigError("\n".join(problems))
    if folder is None:
        if not choice.model:
            raise ConfigError("--base-url needs --model, the model's name at that API")
        assert choice.base_url
        yield (
            EndpointCompleter(
                choice.base_url,
                choice.model,
                choice.api_key_env,
                temperature=temperature,
                reasoning_effort=choice.reasoning_effort,
                timeout_s=choice.timeout_s,
            ),
            estimate_tokens,
        )
        return
    if not (folder / "config.json").is_file():
        raise ConfigError(f"--engine-model {folder}: this is not a checkpoint; expected a folder with config.json")
    with _engine(folder, num_positions, log_dir, temperature, structured) as completer:
        yield completer, completer.count_tokens


@contextmanager
def _engine(
    folder: Path, num_positions: int, log_dir: Path, temperature: float, structured: bool
) -> Iterator[EngineCompleter]:
    from transformers import AutoTokenizer

    from actors.engines.config import EngineConfig
    from actors.pool import EnginePool
    from launch.run.cluster.connection import cluster
    from launch.run.config.run import RayConfig

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
