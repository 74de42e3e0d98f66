"""What an env is made of, from whichever source: the reference population, or a config that serves trained models.

Both register themselves (``register_provider``), so this package knows neither. A package that is installed with an
entry point of the group ``rlenv.env_providers`` is imported, and so registered, when a source is first asked for.
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
"""Where an env's parts come from: "population" needs nothing, "config" serves the models that a config names."""
_PROVIDERS: dict[Source, str] = {}


@dataclass(frozen=True)
class EnvParts:
    """Everything that ``ConversationCore`` takes, and how to let go of what serves it."""

    scenarios: Sequence[Scenario]
    counterparts: Mapping[str, Speaker]
    limits: Limits = Limits()
    reward: Reward | None = None
    split: str | None = None
    close: Callable[[], None] = lambda: None
    """Stops the engines and the Ray that were started for it; safe to call twice."""


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
    """Returns what is given, and where something is None what the config says, or else the reference population.

    Raises:
        ConfigError: overrides of no config; and as the config's provider.
        EngineError: a model of the config could not be served.
    """
    if config is not None:
        parts = _served(config, overrides, seat)
    elif overrides:
        raise ConfigError("overrides change a config, and none was given")
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
    """Makes ``package.module:function`` the provider of a source; it is imported when first asked for.

    Args:
        source: which.
        provider: of a function that returns ``EnvParts``: ``(seat)`` for "population", ``(config, overrides, seat)``
            for "config".
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
            f"config={str(config)!r} serves models, for which {error.name or 'a package'} is missing; install rlenv "
            "with its engines (pip install -e .[cpu] or .[gpu]), or leave config out for the reference population"
        ) from None
    return serve(config, overrides, seat)
