"""Builds the parts of an env from one of two sources: the reference population, or a config that serves models.

Both sources register a provider (``register_provider``), so this package depends on neither. Packages with an entry
point in the group ``rlenv.env_providers`` are imported, and thereby registered, when a source is first needed.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Literal

from rlenv.core.errors import ConfigError
from rlenv.core.protocols import Reward, Speaker
from rlenv.core.types import Seat
from rlenv.env.conversation import Limits
from rlenv.env.scenarios import Scenario

ENTRY_POINTS = "rlenv.env_providers"
Source = Literal["population", "config"]
"""Source of an env's parts: "population" needs no files, "config" serves the models that a config names."""
_PROVIDERS: dict[Source, str] = {}


def _nothing() -> None:
    pass  # a function of the module and not a lambda, so that an env can be pickled


@dataclass(frozen=True)
class EnvParts:
    """The arguments of ``ConversationCore``, and how to stop what serves them."""

    scenarios: Sequence[Scenario]
    counterparts: Mapping[str, Speaker]
    limits: Limits = Limits()
    reward: Reward | None = None
    split: str | None = None
    close: Callable[[], None] = _nothing
    """Stops the engines, and Ray if it was started for them; safe to call twice."""


def env_parts(
    seat: Seat,
    scenarios: Sequence[Scenario] | None = None,
    counterparts: Mapping[str, Speaker] | None = None,
    limits: Limits | None = None,
    reward: Reward | None = None,
    split: str | None = None,
    *,
    config: str | Path | None = None,
    overrides: Sequence[str] = (),
) -> EnvParts:
    """Returns the given parts; those that are None come from ``config``, or else from the reference population.

    Raises:
        ConfigError: overrides without a config, or a config that its provider rejects.
        EngineError: a model of the config could not be served.
    """
    if config is not None:
        parts = _served(config, overrides, seat)
    elif overrides:
        raise ConfigError("overrides: they change a config, but config is None; give both or neither")
    elif scenarios is not None and counterparts is not None:
        parts = EnvParts(scenarios, counterparts)
    else:
        parts = _provider("population")(seat)
    given: dict[str, Any] = {
        "scenarios": scenarios,
        "counterparts": counterparts,
        "limits": limits,
        "reward": reward,
        "split": split,
    }
    return replace(parts, **{name: value for name, value in given.items() if value is not None})


def register_provider(source: Source, provider: str) -> None:
    """Registers the function ``package.module:function`` as the provider of a source; it is imported when first used.

    Args:
        source: the source that it provides.
        provider: import path of a function that returns ``EnvParts``. Its arguments are ``(seat)`` for "population",
            ``(config, overrides, seat)`` for "config".
    """
    _PROVIDERS[source] = provider


def _provider(source: Source) -> Callable[..., EnvParts]:
    if source not in _PROVIDERS:
        for point in entry_points(group=ENTRY_POINTS):
            point.load()
    if source not in _PROVIDERS:
        raise ModuleNotFoundError(name=f"a provider of the group {ENTRY_POINTS}")
    module, _, name = _PROVIDERS[source].partition(":")
    provider: Callable[..., EnvParts] = getattr(importlib.import_module(module), name)
    return provider


def _served(config: str | Path, overrides: Sequence[str], seat: Seat) -> EnvParts:
    try:
        serve = _provider("config")
    except ImportError as error:
        raise ConfigError(
            f"config={str(config)!r}: serving its models needs {error.name or 'a package'}, which is not installed; "
            "install rlenv with its engines (pip install -e .[cpu] or .[gpu]), or omit config to use the reference "
            "population"
        ) from None
    return serve(config, overrides, seat)
