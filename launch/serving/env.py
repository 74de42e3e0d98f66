"""Serves the parts of an env that come from a run: simulators or chatbots on engines, and a discriminator.

Envs of one process with equal settings share one set of engines. The last one to close stops the engines, and Ray if it
was started for them. Independent of Gymnasium.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from actors.engines.requests import check_adapter
from actors.pool import EnginePool
from actors.scoring import DiscriminatorPool
from launch.adversarial.run import make_simulator
from launch.adversarial.simulation import OPENERS
from launch.run.cluster.connection import cluster
from launch.run.contents import (
    chatbot_adapters,
    discriminator_checkpoint,
    model_folder,
    newest_taken,
    read_data,
    simulator_versions,
)
from launch.run.directory import RunDirectory
from launch.run.preflight import speaker_needs, with_model
from launch.run.roster import make_speaker, roster
from launch.run.serving import Serving
from launch.run.settings import to_dict
from launch.serving.config import EnvConfig, load_env_config
from rlenv.core.errors import ConfigError, there_are
from rlenv.core.files import to_line
from rlenv.core.protocols import Discriminator, Speaker
from rlenv.core.types import Seat
from rlenv.env.ensemble import Ensemble
from rlenv.env.providers import EnvParts
from rlenv.env.scenarios import Scenario
from rlenv.prompting.chat_format import ChatFormat
from rlenv.rewards.registry import make_reward, sources_asked_for
from rlenv.speakers.resampled import resampled


def serve_env(config: str | Path, overrides: Sequence[str], seat: Seat) -> EnvParts:
    """Returns the parts of an env with the agent in ``seat``; their engines run until ``close``.

    Args:
        config: an env's YAML file, or a run directory.
        overrides: ``key.sub=value``, applied last.
        seat: the agent's seat.

    Raises:
        ConfigError: the settings are wrong, or the run lacks what they need.
        EngineError: a model could not be served.
    """
    settings: EnvConfig = load_env_config(config, overrides)
    with ExitStack() as stack:
        key = (seat, to_line(to_dict(settings)))
        served: Served = stack.enter_context(_shared(key, lambda: serve(settings, seat)))
        return replace(served.parts, close=stack.pop_all().close)


@dataclass(frozen=True)
class Served:
    """The parts of an env, with the engines and the discriminator that serve them."""

    parts: EnvParts
    pools: Mapping[str, EnginePool]
    """Running engine pools by name."""
    formats: Mapping[str, ChatFormat]
    """The engines' chat formats, by the same names."""
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
    """Yields the parts of an env, with their engines running. Wrong settings are reported before an engine starts.

    Args:
        config: the env's settings.
        seat: the agent's seat.
        engines: names of engines to start in addition to those that the env needs.
        judged: whether to serve the discriminator even if no reward needs it.
        log_dir: the folder of the logs of engines and discriminator; None is the run's.
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
    judges = _judges(run, config, seat, logs)
    counterparts, pools = _counterparts(run, config, seat, serving, engines, judges)
    with ExitStack() as stack:
        if pools or discriminator is not None:
            stack.enter_context(_shared("ray", lambda: cluster(settings.ray)))
        for pool in pools.values():
            stack.enter_context(pool)
        for judge in judges.values():
            stack.enter_context(judge)
        if discriminator is not None:
            stack.enter_context(discriminator)
        parts = EnvParts(scenarios, counterparts, settings.env, reward, config.split)
        yield Served(parts, pools, serving.formats if pools else {}, discriminator)


def _judges(run: RunDirectory, config: EnvConfig, seat: Seat, logs: Path) -> dict[str, DiscriminatorPool]:
    """Returns the discriminators that resample the messages of the simulators in use, by version, not started yet."""
    if seat == "user" or config.resample == 1:
        return {}
    settings = config.settings
    weights = _weights(config, list(simulator_versions(run, settings)))
    return {
        name: DiscriminatorPool(
            discriminator_checkpoint(run, settings, name), settings.scoring, settings.context, logs / name
        )
        for name in simulator_versions(run, settings)
        if weights[name]
    }


def _counterparts(
    run: RunDirectory,
    config: EnvConfig,
    seat: Seat,
    serving: Serving,
    engines: Sequence[str],
    judges: Mapping[str, Discriminator],
) -> tuple[Ensemble, dict[str, EnginePool]]:
    """Returns the counterparts of an agent in ``seat``, and the engine pools that are needed, not started yet."""
    settings = config.settings
    if seat == "chatbot":
        versions = simulator_versions(run, settings)
        weights = _weights(config, list(versions))
        others = {name: speaker for name, speaker in settings.zero_shot.items() if name in weights} | config.users
    else:
        versions, weights, others = {}, None, roster(config.chatbots or settings.chatbots)
    if missing := speaker_needs("users" if seat == "chatbot" else "chatbots", others, settings):
        raise ConfigError("\n".join(missing))
    if weights is not None:  # an agent in the user's seat needs no simulator
        check_versions(config, [name for name in versions if weights[name]])
    names = {speaker.engine for speaker in others.values() if speaker.kind == "engine"}
    if unknown := sorted(names - settings.engines.keys()):
        raise ConfigError(f"chatbots: no engine {unknown[0]!r}; {there_are(settings.engines, unknown[0])}")
    names |= {*engines, *(["simulator"] if versions else [])}
    pools = {name: EnginePool(serving.engine_configs[name]) for name in sorted(names)}
    counterparts: dict[str, Speaker] = {
        name: resampled(make_simulator(settings, serving, pools, adapter), judges.get(name), config.resample)
        for name, adapter in versions.items()
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
    """Returns the ensemble's weights, with 0 for versions and further users that it does not name."""
    known = {*versions, *config.settings.zero_shot, *config.users}
    unknown = [name for name in config.ensemble if name not in known]
    problems = [f"ensemble: no simulator {n!r}; {there_are(known, n)}" for n in unknown]
    twice = sorted(config.users.keys() & {*versions, *config.settings.zero_shot})
    problems += [f"users.{name}: the run has a simulator of that name; choose another name" for name in twice]
    if problems:
        raise ConfigError("\n".join(problems))
    idle = dict.fromkeys([*versions, *config.users], 0.0)
    return {**idle, **(config.ensemble or {newest_taken(RunDirectory(config.run), versions): 1.0})}


def check_versions(config: EnvConfig, names: Sequence[str]) -> None:
    """Checks that the adapters of these simulator versions can be served. Others are told at their first request.

    Raises:
        ConfigError: one cannot; names the version.
    """
    run, settings = RunDirectory(config.run), config.settings
    versions = simulator_versions(run, settings)
    engine = with_model(settings.engines["simulator"], settings, run)
    for name in names:
        if name in versions:
            check_adapter(versions[name], engine)


# ------------------------------------------------------------------------------ resources shared by envs


@dataclass
class _Resource:
    stack: ExitStack
    value: Any
    num_users: int = 0


_resources: dict[object, _Resource] = {}
_lock = threading.RLock()


@contextmanager
def _shared(key: object, make: Callable[[], AbstractContextManager[Any]]) -> Iterator[Any]:
    """Yields the value of ``make()``, shared by all who use ``key`` at the same time; the last user closes it."""
    with _lock:
        if key not in _resources:
            stack = ExitStack()
            _resources[key] = _Resource(stack, stack.enter_context(make()))
        resource = _resources[key]
        resource.num_users += 1
    try:
        yield resource.value
    finally:
        with _lock:
            resource.num_users -= 1
            if resource.num_users == 0:
                _resources.pop(key, None)
                resource.stack.close()


if hasattr(os, "register_at_fork"):  # they are the parent's, and its to close
    os.register_at_fork(after_in_child=_resources.clear)


@atexit.register
def _close_all() -> None:
    """Closes the remaining resources at exit, while Ray is still connected."""
    for resource in reversed([*_resources.values()]):
        resource.stack.close()
