"""Checks, before anything starts, what a run needs besides its settings: functions, keys, adapters, data and models.

Without this they would be missed hours later, when the first phase after training reads them. Settings themselves are
checked where they are declared. A function that cannot be imported is always an error; what another machine may have is
an error in a run, and a warning of ``--dry-run``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from actors.engines.config import EngineConfig
from actors.engines.requests import check_adapter
from launch.run.config.run import RunConfig
from launch.run.config.speaker import SpeakerConfig
from launch.run.contents import SMALL_LLAMA, model_folder, version_name
from launch.run.directory import RunDirectory
from rlenv.core.adapters import adapter_at
from rlenv.core.errors import ConfigError
from rlenv.speakers.endpoint import import_callable
from rlenv.speakers.outside import consent_problems

PROVIDED = ("auto", "population-llama", SMALL_LLAMA, "smollm2")
"""Names of models that are no folder and no name on the hub."""


def check_functions(config: RunConfig) -> None:
    """Imports the functions of speakers of kind callable.

    Raises:
        ConfigError: some cannot be imported; names all.
    """
    _raise(function_problems("chatbots", config.chatbots) + function_problems("zero_shot", config.zero_shot))


def check_ready(config: RunConfig) -> None:
    """Checks that everything is here that the unfinished phases of a run will read.

    Raises:
        ConfigError: something is not; names all.
    """
    check_functions(config)
    _raise(missing_here(config))
    _raise(_unreadable_models(config))


def missing_here(config: RunConfig) -> list[str]:
    """Returns what an unfinished run needs and this machine lacks, each as ``key: what is missing and what to do``."""
    run = RunDirectory(config.out_dir)
    problems = []
    if config.data.path is not None and not run.has("data") and not Path(config.data.path).is_file():
        problems.append(f"data.path: there is no file {config.data.path}; correct the path")
    if config.simulator.adapter:
        problems += _adapter_problems("simulator.adapter", config.simulator.adapter, "simulator", config)
    if not run.has(f"{version_name(config.num_iterations)}/simulated"):
        problems += speaker_needs("chatbots", config.chatbots, config)
    waiting = {name: s for name, s in config.zero_shot.items() if not run.has(f"{name}/simulated")}
    problems += speaker_needs("zero_shot", waiting, config)
    problems += [
        f"{where}: there is no folder {name}; correct the path"
        for where, name in _models(config)
        if (Path(name).is_absolute() or name.startswith((".", "~"))) and not Path(name).is_dir()
    ]
    return problems


def speaker_needs(where: str, speakers: Mapping[str, SpeakerConfig], config: RunConfig) -> list[str]:
    """Returns the keys' variables that are not set, the adapters that cannot be served, and the endpoints to which
    conversations may not go.

    Args:
        where: the section of the speakers.
        speakers: the speakers by name; "" is one that is the section itself.
        config: the settings with their engines.
    """
    problems = []
    for name, speaker in speakers.items():
        section, key = f"{where}.{name}" if name else where, speaker.api_key_env
        if speaker.kind == "endpoint" and key and not os.environ.get(key):
            problems.append(f"{section}.api_key_env: {key} is not set; set it to the API key of {speaker.base_url}")
        if speaker.kind == "endpoint":
            problems += [f"{section}.{p}" for p in consent_problems(speaker.base_url, speaker.allow_external)]
        if speaker.kind == "engine" and speaker.adapter not in (None, "trained"):
            problems += _adapter_problems(f"{section}.adapter", str(speaker.adapter), speaker.engine, config)
    return problems


def function_problems(where: str, speakers: Mapping[str, SpeakerConfig]) -> list[str]:
    """Returns the functions of speakers that cannot be imported."""
    problems = []
    for name, speaker in speakers.items():
        if speaker.kind == "callable" and speaker.function:
            try:
                import_callable(speaker.function)
            except ConfigError as error:
                problems.append(f"{where}.{name}.function: {error}")
    return problems


def with_model(engine: EngineConfig, config: RunConfig, run: RunDirectory) -> EngineConfig:
    """Returns an engine's settings with the folder of its base model, or its name if the folder is not made yet."""
    model = config.simulator.model if engine.model == "auto" else engine.model
    with suppress(ConfigError):
        model = model_folder(run, model) if model != "smollm2" else model
    return replace(engine, model=model)


def _adapter_problems(where: str, path: str, engine: str, config: RunConfig) -> list[str]:
    try:
        adapter, serves = adapter_at(path, where), config.engines.get(engine)
        if serves is not None:
            check_adapter(adapter, with_model(serves, config, RunDirectory(config.out_dir)))
    except ConfigError as error:
        return [f"{where}: {error}"]
    return []


def _models(config: RunConfig) -> Iterator[tuple[str, str]]:
    """Yields the key and the name of each base model that is a folder or a name on the hub."""
    models = {"simulator.model": config.simulator.model}
    if config.discriminator.kind != "likelihood":  # which reads with the simulator's model
        models["backbone"] = config.backbone
    models |= {f"engines.{name}.model": engine.model for name, engine in config.engines.items()}
    yield from ((where, name) for where, name in models.items() if name not in PROVIDED)


def _unreadable_models(config: RunConfig) -> list[str]:
    """Returns the models whose tokenizer or chat template cannot be used; reads small files only."""
    from transformers import AutoTokenizer

    from rlenv.prompting.chat_format import chat_format

    problems: dict[str, str] = {}
    for where, name in _models(config):
        if name in problems or where in problems:
            continue
        try:
            chat_format(AutoTokenizer.from_pretrained(name))
        except ConfigError as error:
            problems[name] = f"{where}: {error}"
        except Exception as error:  # the hub, its cache and the readers of files raise many kinds
            reason = str(error).strip().splitlines()
            problems[name] = f"{where}: the tokenizer of {name} cannot be read: {reason[0] if reason else error!r}"
    return list(problems.values())


def _raise(problems: list[str]) -> None:
    if problems:
        raise ConfigError("\n".join(problems))
