"""Reads the contents of a run directory: settings, users, models, simulator versions.

The phases write them (``launch.adversarial``); environments and served users read them here.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from launch.run.config.run import RunConfig
from launch.run.config.speaker import SpeakerConfig
from launch.run.directory import RunDirectory
from launch.run.settings import read_settings
from rlenv.core.adapters import adapter_at
from rlenv.core.errors import ConfigError, there_are
from rlenv.core.files import read_json
from rlenv.core.types import Adapter, Session
from rlenv.data.sessions import read_sessions
from rlenv.models.named import named_model

MAIN, LEAK, POWER, SWAPPED, HALF = "main", "leak", "power", "swapped", "half"
"""The discriminator of a simulator version and its controls: folders of ``VERSION/discriminator``. The last three are
against shuffled words, other users' messages, and other users' messages at every second turn."""

NEW_USERS = "new_users"
"""Folder beside :data:`MAIN` of the discriminator that is trained on the evaluation users (kind ``likelihood``)."""

VERDICT = "verdict.json"
"""File in ``VERSION/acceptance``: whether the version was taken."""

SPLITS = ("sft", "adversarial", "evaluation")
SMALL_LLAMA = "small-llama"
"""Name of the base model that a run trains itself."""
FURTHER_SFT = "further_sft"
"""Name of the base simulator after SFT on the adversarial users' real sessions."""


def with_sessions(number: int) -> str:
    """Returns the folder beside :data:`MAIN` of the discriminator with ``number`` training sessions."""
    return f"{MAIN}_{number}"


def version_name(iteration: int) -> str:
    """Returns the simulator's name after ``iteration`` adversarial iterations: base, it1, it2, ..."""
    return "base" if iteration == 0 else f"it{iteration}"


def version_names(config: RunConfig) -> list[str]:
    """Returns the names of the simulators that a run trains one after another, oldest first."""
    later = [version_name(k) for k in range(1, config.num_iterations + 1)]
    return ["base", *([FURTHER_SFT] if config.further_sft == "first" else []), *later]


def version_order(name: str) -> tuple[int, str]:
    """Returns a key that sorts simulators oldest first: others (zero-shot models), base, further_sft, it1, ... it10.

    >>> sorted(["it10", "further_sft", "it2", "base", "gpt-4o"], key=version_order)
    ['gpt-4o', 'base', 'further_sft', 'it2', 'it10']
    """
    iteration = re.fullmatch(r"it([1-9]\d*)", name)
    return (0 if name in ("base", FURTHER_SFT) else int(iteration[1]) if iteration else -1), name


def simulated_versions(root: str | Path) -> list[str]:
    """Returns the names of the simulators whose sessions a run directory holds, in ``version_order``.

    The order comes from the names alone, so that a copied run, whose files have other times, reads the same.
    """
    found = (path.parent.parent.name for path in Path(root).glob("*/simulated/sessions.jsonl"))
    return sorted(found, key=version_order)


def run_settings(root: str | Path) -> dict[str, Any]:
    """Returns the resolved settings of a run.

    Raises:
        ConfigError: the folder holds no run.
    """
    check_run(root)
    return read_settings(Path(root) / "config.yaml")


def check_run(root: str | Path) -> None:
    """Checks that a folder holds a run.

    Raises:
        ConfigError: there is no such folder, or it holds no run.
    """
    if not (Path(root) / "config.yaml").is_file():
        why = "it has no config.yaml" if Path(root).is_dir() else "there is no such folder"
        raise ConfigError(f"{root}: this is not a run directory ({why}); rlenv adversarial makes one")


def read_data(run: RunDirectory) -> dict[str, list[Session]]:
    """Returns the real sessions of the run's three disjoint sets of users, by split.

    Raises:
        ConfigError: the run has not split its data yet.
    """
    if not run.has("data"):
        raise ConfigError(f"{run.root}: the data are not split yet; start or finish the run first")
    return {s: read_sessions(run.path(f"data/{s}.jsonl.gz"), neighbours="keep") for s in SPLITS}


def model_folder(run: RunDirectory, name: str) -> str:
    """Returns the folder (or hub name) of the base model ``name`` of a configuration.

    "population-llama" ships with the package; "smollm2" is unpacked the first time.

    Raises:
        ConfigError: the model is "small-llama" and the run has not trained it yet.
    """
    if name != SMALL_LLAMA:
        return str(named_model(name, run.root / "models") or name)
    if not run.has(f"models/{SMALL_LLAMA}"):
        raise ConfigError(f"{run.root}: the small Llama is not trained yet; start or finish the run first")
    return str(run.path(f"models/{SMALL_LLAMA}"))


def simulator_versions(run: RunDirectory, config: RunConfig) -> dict[str, Adapter]:
    """Returns the simulators that the run has trained so far, oldest first: base, it1, it2, ... (``version_names``).

    Raises:
        ConfigError: the run has trained none yet.
    """
    versions = {}
    for name in version_names(config):
        given = config.simulator.adapter if name == "base" else None
        if given is None and not run.has(f"{name}/adapter"):
            break
        versions[name] = adapter_at(given or run.path(f"{name}/adapter"), name)
    if not versions:
        raise ConfigError(f"{run.root}: no simulator is trained yet; start or finish the run first")
    return versions


def was_taken(run: RunDirectory, version: str) -> bool:
    """Returns whether a simulator version was taken; true where the run accepts every version."""
    path = run.path(f"{version}/acceptance/{VERDICT}")
    return not path.exists() or bool(read_json(path).get("taken", True))


def newest_taken(run: RunDirectory, versions: Collection[str]) -> str:
    """Returns the newest of ``versions`` that was taken, or the newest of all if none was."""
    taken = [version for version in versions if was_taken(run, version)]
    return max(taken or versions, key=version_order)


def chatbot_adapters(run: RunDirectory, chatbots: Mapping[str, SpeakerConfig]) -> dict[str, Adapter]:
    """Returns the adapters of the hosted chatbots by name; where ``adapter`` is "trained", the run's own.

    Raises:
        ConfigError: an adapter's folder does not exist.
    """
    found = {}
    for name, chatbot in chatbots.items():
        if chatbot.kind == "engine" and chatbot.adapter is not None:
            trained = chatbot.adapter == "trained"
            found[name] = adapter_at(run.path(f"chatbots/{name}") if trained else chatbot.adapter, name)
    return found


def discriminator_checkpoint(run: RunDirectory, config: RunConfig, version: str | None = None) -> Path:
    """Returns the checkpoint of the discriminator of ``version``; None is the newest simulator's.

    Raises:
        ConfigError: the run has no discriminator of that version, or none at all yet.
    """
    found = [name for name in (*config.zero_shot, *version_names(config)) if run.has(f"{name}/discriminator/main")]
    if not found:
        raise ConfigError(f"{run.root}: no discriminator is trained yet; start or finish the run first")
    if version is not None and version not in found:
        raise ConfigError(f"{run.root}: no discriminator of {version!r}; {there_are(found, version)}")
    return run.path(f"{version or newest_taken(run, found)}/discriminator/main")
