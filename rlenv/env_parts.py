"""What an env is made of, from whichever source: the reference population, or a config that serves trained models.

Models are served by ``launch``, which this package does not know: it is imported by name when a config is given.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlenv.conversation import Limits
from rlenv.errors import ConfigError
from rlenv.protocols import Reward, Speaker
from rlenv.scenarios import Scenario
from rlenv.types import Seat

SERVING = "launch.env_serving"
"""The module whose ``serve_env(config, overrides, seat)`` returns ``EnvParts``."""


@dataclass(frozen=True)
class EnvParts:
    """Everything that ``ConversationCore`` takes, and how to let go of what serves it."""

    scenarios: Sequence[Scenario]
    world: Mapping[str, Speaker]
    limits: Limits = Limits()
    reward: Reward | None = None
    split: str | None = None
    close: Callable[[], None] = lambda: None
    """Stops the engines and the Ray that were started for it; safe to call twice."""


def env_parts(
    seat: Seat,
    scenarios: Sequence[Scenario] | None = None,
    world: Mapping[str, Speaker] | None = None,
    limits: Limits | None = None,
    reward: Reward | None = None,
    split: str | None = None,
    *,
    config: str | Path | None = None,
    overrides: Sequence[str] = (),
) -> EnvParts:
    """Returns what is given, and where something is None what the config says, or else the reference population.

    Raises:
        ConfigError: overrides of no config; and as ``launch.env_serving.serve_env``.
        EngineError: a model of the config could not be served.
    """
    if config is not None:
        parts = _served(config, overrides, seat)
    elif overrides:
        raise ConfigError("overrides change a config, and none was given")
    elif scenarios is not None and world is not None:
        parts = EnvParts(scenarios, world)
    else:
        parts = _population(seat)
    given: dict[str, Any] = {"scenarios": scenarios, "world": world, "limits": limits, "reward": reward, "split": split}
    return replace(parts, **{name: value for name, value in given.items() if value is not None})


def _population(seat: Seat) -> EnvParts:
    from rlenv.population.scenarios import population_scenarios, population_world

    return EnvParts(population_scenarios(), population_world(seat))


def _served(config: str | Path, overrides: Sequence[str], seat: Seat) -> EnvParts:
    try:
        serving = importlib.import_module(SERVING)
    except ImportError as error:
        raise ConfigError(
            f"config={str(config)!r} serves models, for which {error.name or 'a package'} is missing; install rlenv "
            "with its engines (pip install -e .[cpu] or .[gpu]), or leave config out for the reference population"
        ) from None
    parts: EnvParts = serving.serve_env(config, overrides, seat)
    return parts
