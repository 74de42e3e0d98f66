"""What a run directory holds for whoever uses it afterwards: settings, users, models, versions. Makes nothing of it.

Phases make these (``launch.adversarial``); an environment and a served user read them here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from launch.run.config import RunConfig, SpeakerConfig
from launch.run.directory import RunDirectory
from launch.run.settings import read_settings
from rlenv.core.adapters import adapter_at
from rlenv.core.errors import ConfigError, there_are
from rlenv.core.types import Adapter, Session
from rlenv.data.sessions import read_sessions
from rlenv.models.named import load_smollm2, population_llama

SPLITS = ("sft", "adversarial", "evaluation")
SMALL_LLAMA = "small-llama"
"""The name of a base model that the run trains itself."""


def version_name(iteration: int) -> str:
    """Returns the name of the simulator after so many adversarial iterations: base, it1, it2, ..."""
    return "base" if iteration == 0 else f"it{iteration}"


def version_order(name: str) -> tuple[int, str]:
    """Returns a key that sorts simulators oldest first: others (zero-shot models), base, it1, it2, ... it10.

    >>> sorted(["it10", "it2", "base", "gpt-4o"], key=version_order)
    ['gpt-4o', 'base', 'it2', 'it10']
    """
    iteration = re.fullmatch(r"it([1-9]\d*)", name)
    return (0 if name == "base" else int(iteration[1]) if iteration else -1), name


def simulated_versions(root: str | Path) -> list[str]:
    """Returns the names of the simulators whose sessions a run directory holds, in ``version_order``.

    The order comes from the names alone, so that a copied run, whose files have other times, reads the same.
    """
    found = (path.parent.parent.name for path in Path(root).glob("*/simulated/sessions.jsonl"))
    return sorted(found, key=version_order)


def run_settings(root: str | Path) -> dict[str, Any]:
    """Returns the resolved settings that a run was held with.

    Raises:
        ConfigError: no run there.
    """
    path = Path(root) / "config.yaml"
    if not path.is_file():
        raise ConfigError(f"{root}: no run directory (it has no config.yaml); rlenv adversarial makes one")
    return read_settings(path)


def read_data(run: RunDirectory) -> dict[str, list[Session]]:
    """Returns the real sessions of the run's three disjoint sets of users, by split.

    Raises:
        ConfigError: the run has not divided its data yet.
    """
    if not run.has("data"):
        raise ConfigError(f"{run.root}: its data are not divided yet; start or finish the run first")
    return {s: read_sessions(run.path(f"data/{s}.jsonl.gz"), neighbours="keep") for s in SPLITS}


def model_folder(run: RunDirectory, name: str) -> str:
    """Returns the folder (or hub name) of a base model as a configuration names it; "smollm2" is unpacked once.

    "population-llama" is in the package.

    Raises:
        ConfigError: "small-llama", and the run has not trained its own yet.
    """
    if name == "smollm2":
        return str(load_smollm2(run.root / "models" / "smollm2-135m-instruct"))
    if name == "population-llama":
        return str(population_llama())
    if name != SMALL_LLAMA:
        return name
    if not run.has(f"models/{SMALL_LLAMA}"):
        raise ConfigError(f"{run.root}: its small Llama is not trained yet; start or finish the run first")
    return str(run.path(f"models/{SMALL_LLAMA}"))


def simulator_versions(run: RunDirectory, config: RunConfig) -> dict[str, Adapter]:
    """Returns the simulators that the run has trained so far, oldest first: base, it1, it2, ...

    Raises:
        ConfigError: none yet.
    """
    versions = {}
    for iteration in range(config.num_iterations + 1):
        name = version_name(iteration)
        given = config.simulator.adapter if iteration == 0 else None
        if given is None and not run.has(f"{name}/adapter"):
            break
        versions[name] = adapter_at(given or run.path(f"{name}/adapter"), name)
    if not versions:
        raise ConfigError(f"{run.root}: no simulator is trained yet; start or finish the run first")
    return versions


def chatbot_adapters(run: RunDirectory, chatbots: Mapping[str, SpeakerConfig]) -> dict[str, Adapter]:
    """Returns the adapters of the hosted chatbots that have one: the run's own where it is "trained".

    Raises:
        ConfigError: one is not there.
    """
    found = {}
    for name, chatbot in chatbots.items():
        if chatbot.kind == "engine" and chatbot.adapter is not None:
            trained = chatbot.adapter == "trained"
            found[name] = adapter_at(run.path(f"chatbots/{name}") if trained else chatbot.adapter, name)
    return found


def discriminator_checkpoint(run: RunDirectory, config: RunConfig, version: str | None = None) -> Path:
    """Returns the checkpoint of the discriminator that was trained against ``version``; None is the newest simulator's.

    Raises:
        ConfigError: the run has none of that version, or none at all yet.
    """
    versions = [version_name(k) for k in range(config.num_iterations + 1)]
    found = [name for name in (*config.zero_shot, *versions) if run.has(f"{name}/discriminator/main")]
    if not found:
        raise ConfigError(f"{run.root}: no discriminator is trained yet; start or finish the run first")
    if version is not None and version not in found:
        raise ConfigError(f"{run.root}: no discriminator of {version!r}; {there_are(found, version)}")
    return run.path(f"{version or found[-1]}/discriminator/main")
