"""From YAML and the command line to settings. The only file that knows OmegaConf, which merges and does no more.

Types and rules are those of the settings themselves (``rlenv.core.settings``): every problem of a file is reported at
once, before anything is started.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from launch.run.config import RunConfig
from launch.run.directory import RunDirectory
from launch.run.token_budgets import token_problems
from rlenv.core.errors import ConfigError
from rlenv.core.settings import Settings, defaults, read, to_dict

__all__ = ["load_config", "open_run", "read_settings", "renamed", "to_dict", "typed"]

T = TypeVar("T", bound=Settings)

RENAMED = {
    "measuring": "evaluation",
    "rl.clip_low": "rl.epsilon",
    "rl.clip_high": "rl.epsilon_high",
    "rl.ratio": "rl.importance_sampling_level",
}
"""Former keys, which files of older runs have."""


def load_config(path: str | Path | None, overrides: Sequence[str] = ()) -> RunConfig:
    """Returns the run's configuration.

    Args:
        path: a YAML file with what differs from the defaults; None is the defaults.
        overrides: ``key.sub=value``, applied last.

    Raises:
        ConfigError: no such file, an unknown key (with a suggestion), a wrong value, or a rule broken; all of them.
    """
    return typed(RunConfig, [read_settings(path, overrides)], path or "defaults", of_a_new_run)


def of_a_new_run(config: RunConfig) -> list[str]:
    """Returns which token budgets do not fit each other; a run that has begun goes on under those it began with."""
    began = (Path(config.out_dir) / "config.yaml").is_file()
    return [] if began else token_problems(config)


def open_run(directory: RunDirectory, config: Settings) -> None:
    """Makes the folder of a run, or takes up the run in it; one that was made before a setting existed has its default.

    Raises:
        ConfigError: the folder holds a run of another configuration; names the settings that differ.
    """

    def upgrade(saved: dict[str, Any]) -> dict[str, Any]:
        return to_dict(typed(type(config), [renamed(saved)], directory.root / "config.yaml"))

    directory.open(to_dict(config), upgrade)


def read_settings(path: str | Path | None, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Returns what a YAML file and ``key.sub=value`` overrides say, not yet checked against any type.

    Raises:
        ConfigError: no such file, or what is no YAML of settings.
    """
    try:
        merged: Any = DictConfig({})
        if path is not None:
            if not Path(path).is_file():
                raise ConfigError(f"no configuration at {path}")
            read_from = OmegaConf.load(path)
            if not isinstance(read_from, DictConfig):
                raise ConfigError(f"{path}: expected settings as key: value, got {type(read_from).__name__}")
            merged = read_from
        merged = OmegaConf.merge(merged, OmegaConf.from_dotlist(list(overrides)))
        return renamed(cast(dict[str, Any], OmegaConf.to_container(merged)))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        where = getattr(error, "problem_mark", None)
        line = f" at line {where.line + 1}" if where else ""
        problem = getattr(error, "problem", None) or type(error).__name__
        raise ConfigError(f"{path or overrides}: this is no YAML{line}: {problem}") from None
    except OmegaConfBaseException as error:
        raise _as_ours(error, path or overrides) from None


def renamed(settings: dict[str, Any]) -> dict[str, Any]:
    """Returns the settings of a file with former keys under their present names.

    >>> renamed({"rl": {"clip_low": 0.1}, "measuring": {"every": 3}})
    {'rl': {'epsilon': 0.1}, 'evaluation': {'every': 3}}
    """
    settings = {key: dict(value) if isinstance(value, dict) else value for key, value in settings.items()}
    for old, new in RENAMED.items():
        section, _, old_name = old.rpartition(".")
        inside = settings.get(section) if section else settings
        if isinstance(inside, dict) and old_name in inside:
            inside[new.rpartition(".")[2]] = inside.pop(old_name)
    return settings


def typed(
    schema: type[T],
    layers: Sequence[Mapping[str, Any]],
    where: object,
    rules: Callable[[T], list[str]] | None = None,
) -> T:
    """Returns ``schema`` with what the layers say, later ones last, checked.

    Args:
        schema: a class of settings.
        layers: nested dictionaries; what none of them says is the default.
        where: named by errors.
        rules: further rules, each as ``key: what is wrong and what to do``.

    Raises:
        ConfigError: unknown keys (with a suggestion), wrong values and broken rules, all in one.
    """
    try:
        merged = OmegaConf.to_container(OmegaConf.merge(defaults(schema), *layers), resolve=True)
    except OmegaConfBaseException as error:
        raise _as_ours(error, where) from None
    return read(schema, cast(dict[str, Any], merged), where, rules)


def _as_ours(error: OmegaConfBaseException, where: object) -> ConfigError:
    key = getattr(error, "full_key", None)
    return ConfigError(f"{where}: {key + ': ' if key else ''}{str(error).splitlines()[0]}")
