"""From YAML and the command line to a typed configuration. The only file that knows OmegaConf."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from launch.run.config import RunConfig, T
from rlenv.core.errors import ConfigError


def load_config(path: str | Path | None, overrides: Sequence[str] = ()) -> RunConfig:
    """Returns the run's configuration.

    Args:
        path: a YAML file with what differs from the defaults; None is the defaults.
        overrides: ``key.sub=value``, applied last.

    Raises:
        ConfigError: no such file, an unknown key (with a suggestion), a wrong type, or a rule broken.
    """
    return typed(RunConfig, [read_settings(path, overrides)], path or "defaults")


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
            said = OmegaConf.load(path)
            if not isinstance(said, DictConfig):
                raise ConfigError(f"{path}: expected settings as key: value, got {type(said).__name__}")
            merged = said
        merged = OmegaConf.merge(merged, OmegaConf.from_dotlist(list(overrides)))
        return cast(dict[str, Any], OmegaConf.to_container(merged))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        where = getattr(error, "problem_mark", None)
        line = f" at line {where.line + 1}" if where else ""
        problem = getattr(error, "problem", None) or type(error).__name__
        raise ConfigError(f"{path or overrides}: this is no YAML{line}: {problem}") from None
    except OmegaConfBaseException as error:
        raise _told(error, path or overrides) from None


def typed(schema: type[T], layers: Sequence[Mapping[str, Any]], where: object) -> T:
    """Returns ``schema`` with what the layers say, later ones last, checked.

    Raises:
        ConfigError: an unknown key (with a suggestion), a wrong type, or a rule broken; ``where`` is said with it.
    """
    try:
        return cast(T, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), *layers)))
    except OmegaConfBaseException as error:
        raise _told(error, where) from None


def _told(error: OmegaConfBaseException, where: object) -> ConfigError:
    key = getattr(error, "full_key", None)
    return ConfigError(f"{where}: {key + ': ' if key else ''}{str(error).splitlines()[0]}")


def to_dict(config: Any) -> dict[str, Any]:
    """Returns a config as plain dictionaries, the form in which it is saved with a run."""
    return cast(dict[str, Any], OmegaConf.to_container(OmegaConf.structured(config)))
