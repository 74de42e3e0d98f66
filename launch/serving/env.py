"""Serves what an env needs from a run: simulators or chatbots on engines, a discriminator for its reward, Ray.

Envs of one process and equal settings share one set of engines; the last one to close stops them, and the Ray that
was started for them. Knows nothing of Gymnasium.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from actors.pool import EnginePool
from actors.scoring import DiscriminatorPool
from launch.adversarial.run import make_simulator
from launch.adversarial.simulation import OPENERS
from launch.run.contents import chatbot_adapters, discriminator_checkpoint, model_folder, read_data, simulator_versions
from launch.run.directory import RunDirectory
from launch.run.roster import make_speaker, roster
from launch.run.serving import Serving, cluster
from launch.run.settings import to_dict
from launch.serving.config import EnvConfig, load_env_config
from rlenv.core.errors import ConfigError, there_are
from rlenv.core.files import to_line
from rlenv.core.protocols import Speaker
from rlenv.core.types import Seat
from rlenv.env.ensemble import Ensemble
from rlenv.env.providers import EnvParts
from rlenv.env.scenarios import Scenario
from rlenv.prompting.chat_format import ChatFormat
from rlenv.rewards.registry import make_reward, sources_asked_for


def serve_env(config: str | Path, overrides: Sequence[str], seat: Seat) -> EnvParts:
    """Returns the parts of an env with the agent in ``seat``; what serves them runs until ``close``.

    Args:
        config: an env's YAML file, or a run directory.
        overrides: ``key.sub=value``, applied last.
        seat: the agent's.

    Raises:
        ConfigError: settings that cannot be used, or a run that lacks what they ask for.
        EngineError: a model could not be served.
    """
    settings: EnvConfig = load_env_config(config, overrides)
    with ExitStack() as held:
        key = (seat, to_line(to_dict(settings)))
        served: Served = held.enter_context(_shared(key, lambda: serve(settings, seat)))
        return replace(served.parts, close=held.pop_all().close)


@dataclass(frozen=True)
class Served:
    """An env's parts and what serves them."""

    parts: EnvParts
    pools: Mapping[str, EnginePool]
    """Running engines by name."""
    formats: Mapping[str, ChatFormat]
    """Their chat formats."""
    discriminator: DiscriminatorPool | None


@contextmanager
def serve(
    config: EnvConfig,
    seat: Seat,
    *,
    engines: Sequence[str] = (),
    judged: bool = False,
    log_dir: Path | None = None,
) -> Iterator[Served]:
    """Gives the parts of an env, served; what can be wrong without an engine is told before one starts.

    Args:
        config: the env's.
        seat: the agent's.
        engines: of the settings, to start beside those that the env asks for.
        judged: serve the discriminator whether or not a reward asks for it.
        log_dir: of the engines and the discriminator; None is the run's.
    """
    run, settings = RunDirectory(config.run), config.settings
    logs = log_dir or run.path("logs/env")
    opener = OPENERS[settings.collect.opener]
    scenarios = [Scenario.of_session(s, opener, split) for split, part in read_data(run).items() for s in part]
    discriminator: DiscriminatorPool | None = None
    if judged or "discriminator" in sources_asked_for(config.rewards):
        checkpoint = discriminator_checkpoint(run, settings, config.discriminator)
        discriminator = DiscriminatorPool(checkpoint, settings.scoring, settings.context, logs)
    reward = make_reward(config.rewards, seat=seat, discriminator=discriminator) if config.rewards else None
    serving = Serving(settings, model_folder(run, settings.simulator.model), logs)
    counterparts, pools = _partners(run, config, seat, serving, engines)
    with ExitStack() as held:
        if pools or discriminator is not None:
            held.enter_context(_shared("ray", lambda: cluster(settings.ray)))
        for pool in pools.values():
            held.enter_context(pool)
        if discriminator is not None:
            held.enter_context(discriminator)
        parts = EnvParts(scenarios, counterparts, settings.env, reward, config.split)
        yield Served(parts, pools, serving.formats if pools else {}, discriminator)


def _partners(
    run: RunDirectory, config: EnvConfig, seat: Seat, serving: Serving, engines: Sequence[str]
) -> tuple[Ensemble, dict[str, EnginePool]]:
    """Returns who sits opposite an agent in ``seat``, and the engines, still to be started, that are asked for."""
    settings = config.settings
    if seat == "chatbot":
        versions = simulator_versions(run, settings)
        weights = _weights(config, list(versions))
        others = {name: speaker for name, speaker in settings.zero_shot.items() if name in weights} | config.users
    else:
        versions, weights, others = {}, None, roster(config.chatbots or settings.chatbots)
    names = {speaker.engine for speaker in others.values() if speaker.kind == "engine"}
    if unknown := sorted(names - settings.engines.keys()):
        raise ConfigError(f"chatbots: no engine {unknown[0]!r}; {there_are(settings.engines, unknown[0])}")
    names |= {*engines, *(["simulator"] if versions else [])}
    pools = {name: EnginePool(serving.engine_configs[name]) for name in sorted(names)}
    counterparts: dict[str, Speaker] = {
        name: make_simulator(settings, serving, pools, adapter) for name, adapter in versions.items()
    }
    for name, speaker in others.items():
        counterparts[name] = make_speaker(
            name,
            "user" if seat == "chatbot" else "chatbot",
            speaker,
            settings.context,
            engines=pools,
            formats=serving.formats if pools else {},
            adapters=chatbot_adapters(run, others),
        )
    return Ensemble(counterparts, weights), pools


def _weights(config: EnvConfig, versions: Sequence[str]) -> dict[str, float]:
    """Returns the ensemble's weights, 0 for versions and further users that it does not name."""
    known = {*versions, *config.settings.zero_shot, *config.users}
    unknown = [name for name in config.ensemble if name not in known]
    problems = [f"ensemble: no simulator {n!r}; {there_are(known, n)}" for n in unknown]
    twice = sorted(config.users.keys() & {*versions, *config.settings.zero_shot})
    problems += [f"users.{name}: the run has a simulator of that name; choose another" for name in twice]
    if problems:
        raise ConfigError("\n".join(problems))
    idle = dict.fromkeys([*versions, *config.users], 0.0)
    return {**idle, **(config.ensemble or {versions[-1]: 1.0})}


# ----------------------------------------------------------------------------------- held in common


@dataclass
class _Open:
    held: ExitStack
    value: Any
    users: int = 0


_open: dict[object, _Open] = {}
_lock = threading.RLock()


@contextmanager
def _shared(key: object, make: Callable[[], AbstractContextManager[Any]]) -> Iterator[Any]:
    """Gives what ``make`` gives, made once for all who hold ``key`` at the same time; the last one ends it."""
    with _lock:
        if key not in _open:
            held = ExitStack()
            _open[key] = _Open(held, held.enter_context(make()))
        ours = _open[key]
        ours.users += 1
    try:
        yield ours.value
    finally:
        with _lock:
            ours.users -= 1
            if ours.users == 0:
                _open.pop(key, None)
                ours.held.close()


@atexit.register
def _close_all() -> None:
    """Ends what was not closed, while Ray can still be spoken to."""
    for each in reversed([*_open.values()]):
        each.held.close()
