"""A run that trains a chatbot as one object: its configuration, its directory and its rollout host."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray

from actors.supervision import Supervised
from launch.chatbot.config import TRAINING, ChatbotRunConfig
from launch.chatbot.rollout_host import start_host
from launch.run.cluster.connection import cluster
from launch.run.contents import simulator_versions
from launch.run.directory import RunDirectory
from launch.run.preflight import function_problems, speaker_needs
from launch.run.readers import CHATBOT
from launch.run.settings import open_run
from launch.run.training import Training
from rlenv.core.errors import ConfigError, there_are
from rlenv.core.types import Adapter
from rlenv.evaluation.chatbot_rl.records import UserKind, Users
from rlenv.rewards.registry import make_reward
from rlenv.speakers.outside import consent_problems


class RolloutHosts:
    """The rollout hosts of a run, of which one at a time is running; started at its first use.

    Args:
        directory: the run whose conversations they collect.
    """

    def __init__(self, directory: RunDirectory) -> None:
        self._directory = directory
        self._config: ChatbotRunConfig | None = None
        self._host: Supervised | None = None

    def host_for(self, config: ChatbotRunConfig) -> Supervised:
        """Returns the running host of these settings; stops a host of other settings first."""
        if self._host is None or config != self._config:
            self.close()
            check_room(config)
            self._host, self._config = start_host(config, self._directory.root), config
        return self._host

    def close(self) -> None:
        """Stops the host and its engines."""
        if self._host is not None:
            self._host.close()
        self._host = self._config = None


@dataclass(frozen=True)
class ChatbotRun:
    """The state that the phases of a chatbot's training share."""

    config: ChatbotRunConfig
    directory: RunDirectory
    hosts: RolloutHosts

    @classmethod
    def of(cls, config: ChatbotRunConfig) -> ChatbotRun:
        """Returns the run of a configuration; nothing is started yet."""
        directory = RunDirectory(config.out_dir)
        return cls(config, directory, RolloutHosts(directory))

    @contextmanager
    def opened(self) -> Iterator[ChatbotRun]:
        """Yields the run with its directory locked and a Ray cluster; stops its host at the end.

        Raises:
            ConfigError: another driver is working in the directory, or it holds a run with other settings.
        """
        with self.directory.locked():
            open_run(self.directory, self.config, CHATBOT)
            with cluster(self.config.settings.ray):
                try:
                    yield self
                finally:
                    self.hosts.close()

    def changed(self, **settings: Any) -> ChatbotRun:
        """Returns the run with changed settings, for later phases."""
        return replace(self, config=replace(self.config, **settings))

    @property
    def source(self) -> RunDirectory:
        """The adversarial run whose simulators the chatbot talks to."""
        return RunDirectory(self.config.run)

    @property
    def training(self) -> Training:
        """The resources and seed that its training phases share."""
        return Training(self.directory, self.config.settings.train, self.config.seed)

    @property
    def chatbot_model(self) -> str:
        """The folder of the chatbot's base model; prepare it first (``prepare_chatbot_model``)."""
        return self.config.settings.engines[self.config.chatbot.engine].model


def groups_of_users(config: ChatbotRunConfig) -> list[tuple[Users, dict[str, float]]]:
    """Returns the groups of users that the chatbot is evaluated with, and the weights of the users in each.

    Raises:
        ConfigError: a held-out user does not exist or is trained with.
    """
    versions = list(simulator_versions(RunDirectory(config.run), config.settings))
    known = [*versions, *config.settings.zero_shot, *config.users]
    if unknown := [name for name in config.held_out if name not in known]:
        raise ConfigError("\n".join(f"held_out: no simulator {n!r}; {there_are(known, n)}" for n in unknown))
    ensemble = {name: weight for name, weight in config.ensemble.items() if weight} or {versions[-1]: 1.0}
    if twice := sorted(ensemble.keys() & set(config.held_out)):
        raise ConfigError(f"held_out: {twice[0]!r} is trained with; an empty ensemble trains with the newest simulator")
    groups = [(Users(name=TRAINING, kind="training"), ensemble)]
    for name in config.held_out:
        people = name in config.users and config.users[name].kind == "population"
        kind: UserKind = "population" if people else "held_out"
        groups.append((Users(name=name, kind=kind), {name: 1.0}))
    return groups


def check_settings(config: ChatbotRunConfig) -> None:
    """Checks the names that only the run, the rewards' registry or an import knows.

    Raises:
        ConfigError: a held-out user, a reward or a function does not exist.
    """
    groups_of_users(config)
    config.rl.updates_per_round(config.settings.train.num_workers)
    if problems := function_problems("users", config.users):
        raise ConfigError("\n".join(problems))
    make_reward(config.rewards, seat="chatbot", discriminator=object())  # only whether it can be made


def missing_here(config: ChatbotRunConfig) -> list[str]:
    """Returns what the run needs and this machine lacks, each as ``key: what is missing and what to do``."""
    problems = speaker_needs("chatbot", {"": config.chatbot}, config.settings)
    problems += speaker_needs("users", config.users, config.settings)
    judge = config.evaluation.held_out_judge
    if judge is not None:
        found = consent_problems(judge.base_url, judge.allow_external)
        problems += [f"evaluation.held_out_judge.{problem}" for problem in found]
    if judge is not None and judge.api_key_env and not os.environ.get(judge.api_key_env):
        problems.append(f"evaluation.held_out_judge.api_key_env: {judge.api_key_env} is not set; set it to the API key")
    if judge is not None and judge.engine_model and not (Path(judge.engine_model) / "config.json").is_file():
        problems.append(
            f"evaluation.held_out_judge.engine_model: {judge.engine_model} is not a checkpoint; expected a folder with "
            "config.json"
        )
    return problems


def check_room(config: ChatbotRunConfig) -> None:
    """Checks that the cluster has room for the engines and the learner at the same time.

    Raises:
        ConfigError: it has not; with the numbers of CPUs or GPUs.
    """
    settings = config.settings
    names = {config.chatbot.engine, "simulator"}
    names |= {user.engine for user in config.users.values() if user.kind == "engine"}
    engines = [settings.engines[name] for name in sorted(names)]
    scoring = settings.scoring.replicas if config.faults.quantile > 0 else 0
    total = ray.cluster_resources()
    for resource, requested in (
        ("CPU", [e.replicas * e.num_cpus for e in engines] + [scoring * settings.scoring.num_cpus]),
        ("GPU", [e.replicas * e.num_gpus for e in engines] + [scoring * settings.scoring.num_gpus]),
    ):
        train = settings.train.num_workers * (settings.train.num_cpus if resource == "CPU" else settings.train.num_gpus)
        if sum(requested) + train > total.get(resource, 0) + 1e-6:
            raise ConfigError(
                f"the learner keeps its {resource}s while conversations are collected: engines need "
                f"{sum(requested):g} {resource}, the learner needs {train:g}, and the cluster has "
                f"{total.get(resource, 0):g}; lower settings.engines.*.num_{resource.lower()}s or settings.train, "
                "or add nodes"
            )


def chatbot_as(adapter: Adapter, version: str) -> Adapter:
    """Returns the same adapter, named ``version``."""
    return adapter.model_copy(update={"name": version})
