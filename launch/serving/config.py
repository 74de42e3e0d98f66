"""The settings of an environment that is made from an adversarial run: ``gym.make(id, config="conf/env_esconv.yaml")``.

A file names the run, the counterparts and the rewards. Everything else comes from the run's resolved settings, which
``settings`` overrides. Independent of Gymnasium and Ray.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, PositiveInt

from launch.run.config.run import RunConfig
from launch.run.config.speaker import SpeakerConfig, speaker_problems
from launch.run.contents import SPLITS, run_settings
from launch.run.settings import read_settings, typed
from rlenv.core.errors import ConfigError, there_are
from rlenv.core.files import describe
from rlenv.core.settings import Settings, settings

EXPONENT = re.compile(r"[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+")


def _with_numbers(value: Any) -> Any:
    """Returns the options of rewards, whose types are not known here, with text such as ``1e-3`` as numbers."""
    if isinstance(value, dict):
        return {key: _with_numbers(item) for key, item in value.items()}
    return float(value) if isinstance(value, str) and EXPONENT.fullmatch(value) else value


@settings
class EnvConfig(Settings):
    """A conversation env made from a run; the agent's seat is given by the env id."""

    run: str = ""
    """The run directory; relative to the working directory, like ``out_dir``."""
    ensemble: dict[str, float] = field(default_factory=dict)
    """Agent in the chatbot's seat: the weights of simulator versions (base, it1, ...) and zero-shot users. Empty is the
    newest version only. A simulator without a weight takes part only when ``reset`` names it."""
    users: dict[str, SpeakerConfig] = field(default_factory=dict)
    """Agent in the chatbot's seat: further users by name, for example another adapter on the simulator's engine, an
    untrained model, or kind population, the users of the reference population. ``ensemble`` has their weights."""
    resample: PositiveInt = 1
    """Agent in the chatbot's seat: candidates for each message of the simulators in ``ensemble``. Above 1, a message is
    drawn in proportion to how real the version's own discriminator finds it: closer to people, at ``resample`` times
    the tokens."""
    chatbots: dict[str, SpeakerConfig] = field(default_factory=dict)
    """Agent in the user's seat: the chatbots; empty is the chatbots of the run."""
    rewards: Annotated[dict[str, Any], BeforeValidator(_with_numbers)] = field(default_factory=dict)
    """Registered rewards: name to weight, or to {weight, options}. Empty gives a reward of 0."""
    discriminator: str | None = None
    """Simulator version whose discriminator serves the reward "realism"; None is the newest."""
    split: str | None = "adversarial"
    """Split that contexts are drawn from: sft, adversarial or evaluation; None is all."""
    settings: RunConfig = RunConfig()
    """The run's settings, with what this env changes: engines, scoring, env (limits), simulator.sampling, ray ..."""

    def problems(self) -> list[str]:
        """Returns the broken rules between fields."""
        problems = []
        if self.split not in (None, *SPLITS):
            problems.append(f"split: no split {self.split!r}; {there_are(SPLITS, self.split)}")
        engines = self.settings.engines
        for where, speakers in (("users", self.users), ("chatbots", self.chatbots)):
            problems += speaker_problems(where, speakers, engines, "settings.engines")
        return problems + [
            f"users.{name}.adapter: 'trained' is for a run's own chatbots; give the folder of an adapter"
            for name, user in self.users.items()
            if user.adapter == "trained"
        ]


E = TypeVar("E", bound=EnvConfig)


def load_env_config(config: str | Path, overrides: Sequence[str] = (), schema: type[E] = EnvConfig) -> E:  # type: ignore[assignment]
    """Returns the settings of an env.

    Args:
        config: a YAML file, or a run directory, which means its newest simulator and no reward.
        overrides: ``key.sub=value``, applied last.
        schema: ``EnvConfig`` or a subclass.

    Raises:
        ConfigError: there is no such file or run, or a setting is unknown, wrong or against a rule; all problems.
    """
    path = Path(config)
    if path.is_dir():
        run_settings(path)  # raises where the folder holds no run
        own = {"run": str(path), **read_settings(None, overrides)}
    else:
        own = read_settings(path, overrides)
    folder = own.get("run")
    if not folder:
        raise ConfigError(
            f"{config}: no key 'run', which names the directory of an adversarial run. If this is the configuration of "
            "an adversarial run, give its run directory (out_dir) instead"
        )
    if not isinstance(folder, str):
        raise ConfigError(f"{config}: run: expected the directory of a run, got {describe(folder)}")
    try:
        of_run = run_settings(folder)
    except ConfigError as error:
        raise ConfigError(f"{config}: run: {error}") from None
    return typed(schema, [{"settings": of_run}, own], config)
