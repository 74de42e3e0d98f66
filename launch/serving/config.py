"""The settings of an environment that is made from an adversarial run: ``gym.make(id, config="conf/env_esconv.yaml")``.

A file says which run, who sits where and what a step is worth; everything else is the run's own resolved settings, and
under ``settings`` any of them can be said anew. Knows nothing of Gymnasium or Ray.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from pathlib import Path
from typing import Any, TypeVar

from launch.run.config import RunConfig, SpeakerConfig, speaker_problems
from launch.run.contents import SPLITS, run_settings
from launch.run.settings import read_settings, typed
from rlenv.core.errors import ConfigError, there_are
from rlenv.core.settings import Settings, settings


@settings
class EnvConfig(Settings):
    """A conversation env made from a run; the seat is the env id's."""

    run: str = ""
    """The run directory; relative to the working directory, as ``out_dir`` is."""
    ensemble: dict[str, float] = field(default_factory=dict)
    """Chatbot's seat: simulator versions (base, it1, ...) and zero-shot users with their weights. Empty is the newest
    version alone. Those that are not named have weight 0: they sit there when ``reset`` asks for them."""
    users: dict[str, SpeakerConfig] = field(default_factory=dict)
    """Chatbot's seat: users beside the run's simulators, by name: another adapter on the simulator's engine, an
    untrained model, or kind population, the reference population's own users. ``ensemble`` gives them weights."""
    chatbots: dict[str, SpeakerConfig] = field(default_factory=dict)
    """User's seat: who may be the chatbot; empty is the run's roster."""
    rewards: dict[str, Any] = field(default_factory=dict)
    """Registered rewards: name to weight, or to {weight, options}. Empty gives 0."""
    discriminator: str | None = None
    """Whose discriminator serves the reward "realism": a simulator version; None is the newest's."""
    split: str | None = "adversarial"
    """Users that contexts are drawn from: sft, adversarial or evaluation; None is all."""
    settings: RunConfig = RunConfig()
    """The run's, with what this env has otherwise: engines, scoring, env (limits), simulator.sampling, ray ..."""

    def problems(self) -> list[str]:
        """Returns which rules between fields do not hold."""
        problems = []
        if self.split not in (None, *SPLITS):
            problems.append(f"split: no split {self.split!r}; {there_are(SPLITS, self.split)}")
        engines = self.settings.engines
        for where, speakers in (("users", self.users), ("chatbots", self.chatbots)):
            problems += speaker_problems(where, speakers, engines, "settings.engines")
        return problems + [
            f"users.{name}.adapter: 'trained' is for a run's own chatbots; name an adapter's folder"
            for name, user in self.users.items()
            if user.adapter == "trained"
        ]


E = TypeVar("E", bound=EnvConfig)


def load_env_config(config: str | Path, overrides: Sequence[str] = (), schema: type[E] = EnvConfig) -> E:  # type: ignore[assignment]
    """Returns an env's settings.

    Args:
        config: a YAML file, or a run directory, which is its newest simulator with no reward.
        overrides: ``key.sub=value``, applied last.
        schema: ``EnvConfig``, or a class of it with more settings.

    Raises:
        ConfigError: no such file or run, an unknown key (with a suggestion), a wrong type, or a rule broken.
    """
    path = Path(config)
    if path.is_dir():
        run_settings(path)  # a folder without a run is told as such
        said = {"run": str(path), **read_settings(None, overrides)}
    else:
        said = read_settings(path, overrides)
    if not said.get("run"):
        raise ConfigError(
            f"{config}: no key 'run', which names the directory of an adversarial run. For a run's own configuration, "
            "give its run directory (out_dir) as config"
        )
    return typed(schema, [{"settings": run_settings(said["run"])}, said], config)
