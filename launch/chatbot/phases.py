"""The phases of a chatbot's reinforcement learning, each from files to files. Composes what other packages do.

chatbots/chatbot             the starting adapter, where it is fine-tuned here
VERSION/measured/*.jsonl.gz  conversations that measure a version, by group of users; versions are start, rl1, rl2, ...
rounds/                      of all rounds (``launch.chatbot.records``)
rl1/adapter                  after the rounds up to the first refresh of the simulator, or all of them
refresh1/                    a run of Algorithm 1 against rl1
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import ray

from launch.adversarial.algorithm import run_adversarial
from launch.adversarial.phases import fit_trained_chatbots
from launch.adversarial.pretraining import pretrain_small_llama
from launch.chatbot.config import CHATBOT, TRAINING, ChatbotRunConfig
from launch.chatbot.rollout_host import HostedRollouts, ask, start_host, stop_host
from launch.run.config import RunConfig, SpeakerConfig
from launch.run.contents import model_folder, read_data, simulator_versions, version_name
from launch.run.directory import TRAINING as CHECKPOINTS
from launch.run.directory import RunDirectory
from launch.run.progress import training
from launch.run.roster import system_text
from launch.run.serving import Serving
from rlenv.core.adapters import adapter_at
from rlenv.core.errors import ConfigError, there_are
from rlenv.core.files import write_json
from rlenv.core.progress import Line
from rlenv.core.types import Adapter
from rlenv.evaluation.chatbot_rl.records import UserKind, Users
from rlenv.prompting.system_texts import approximate_tokens
from trainers.chatbot_rl.fit import fit_chatbot

log = logging.getLogger(__name__)
START = "start"


@dataclass(frozen=True)
class Stage:
    """The rounds between two refreshes of the simulator."""

    number: int
    """From 1."""
    first_round: int
    num_rounds: int

    @property
    def version(self) -> str:
        """The chatbot that comes out."""
        return f"rl{self.number}"


def stages(config: ChatbotRunConfig) -> list[Stage]:
    """Returns the stages of a run: one, or one for each ``alternate_every`` rounds."""
    total, every = config.rl.num_rounds, config.alternate_every or config.rl.num_rounds
    firsts = range(0, total, every)
    return [Stage(number, first, min(every, total - first)) for number, first in enumerate(firsts, start=1)]


def groups_of_users(config: ChatbotRunConfig) -> list[tuple[Users, dict[str, float]]]:
    """Returns the groups of users that the chatbot is measured with, and the weights of who is in each.

    Raises:
        ConfigError: a held-out user that is not there.
    """
    versions = list(simulator_versions(RunDirectory(config.run), config.settings))
    known = [*versions, *config.settings.zero_shot, *config.users]
    if unknown := [name for name in config.held_out if name not in known]:
        raise ConfigError("\n".join(f"held_out: no simulator {n!r}; {there_are(known, n)}" for n in unknown))
    ensemble = {name: weight for name, weight in config.ensemble.items() if weight} or {versions[-1]: 1.0}
    if twice := sorted(ensemble.keys() & set(config.held_out)):
        raise ConfigError(f"held_out: {twice[0]!r} is trained with; an ensemble without names is the newest simulator")
    groups = [(Users(name=TRAINING, kind="training"), ensemble)]
    for name in config.held_out:
        people = name in config.users and config.users[name].kind == "population"
        kind: UserKind = "population" if people else "held_out"
        groups.append((Users(name=name, kind=kind), {name: 1.0}))
    return groups


def prepare_chatbot_model(run: RunDirectory, config: ChatbotRunConfig) -> ChatbotRunConfig:
    """Returns the settings with the chatbot's base model as a folder; the small Llama is trained, others unpacked."""
    settings, seat = config.settings, config.chatbot
    engine = settings.engines[seat.engine]
    if engine.model == "auto":
        folder = model_folder(RunDirectory(config.run), settings.simulator.model)
    elif engine.model == "small-llama":
        text = system_text("chatbot", seat, settings.context, approximate_tokens)
        folder = pretrain_small_llama(run, settings, {"chatbot": text})
    else:
        folder = model_folder(run, engine.model)
    engines = {**settings.engines, seat.engine: replace(engine, model=folder)}
    return replace(config, settings=replace(settings, engines=engines))


def chatbot_model(config: ChatbotRunConfig) -> str:
    """Returns the folder of the chatbot's base model, once it is prepared."""
    return config.settings.engines[config.chatbot.engine].model


def fit_start(run: RunDirectory, config: ChatbotRunConfig) -> Adapter:
    """Returns the chatbot to begin as: the adapter that is given, or one of the assistant turns of the SFT users."""
    source = RunDirectory(config.run)
    settings = replace(config.settings, chatbots={CHATBOT: config.chatbot}, zero_shot={})
    serving = Serving(settings, model_folder(source, settings.simulator.model), run.path("logs"))
    fitted = fit_trained_chatbots(run, settings, serving, read_data(source)["sft"])
    return replace_name(fitted[CHATBOT], START)


def replace_name(adapter: Adapter, name: str) -> Adapter:
    """Returns the same adapter as the version ``name``."""
    return adapter.model_copy(update={"name": name})


def check_room(config: ChatbotRunConfig) -> None:
    """Raises ConfigError where the cluster cannot hold the engines and the learner side by side."""
    settings = config.settings
    names = {config.chatbot.engine, "simulator"}
    names |= {user.engine for user in config.users.values() if user.kind == "engine"}
    engines = [settings.engines[name] for name in sorted(names)]
    scoring = settings.scoring.replicas if config.faults.quantile > 0 else 0
    total = ray.cluster_resources()
    for what, asked in (
        ("CPU", [e.replicas * e.num_cpus for e in engines] + [scoring * settings.scoring.num_cpus]),
        ("GPU", [e.replicas * e.num_gpus for e in engines] + [scoring * settings.scoring.num_gpus]),
    ):
        train = settings.train.num_workers * (settings.train.num_cpus if what == "CPU" else settings.train.num_gpus)
        if sum(asked) + train > total.get(what, 0) + 1e-6:
            raise ConfigError(
                f"conversations are held while the learner waits with its {what}s in hand: engines ask for "
                f"{sum(asked):g} {what}, the learner for {train:g}, and the cluster has {total.get(what, 0):g}; lower "
                f"settings.engines.*.num_{what.lower()}s or settings.train, or add nodes"
            )


class Hosts:
    """The one host of a run that is up at a time, started when it is asked for.

    Args:
        run: whose conversations it holds.
    """

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._config: ChatbotRunConfig | None = None
        self._host: Any = None

    def of(self, config: ChatbotRunConfig) -> Any:
        """Returns the running host of these settings; one of others ends first."""
        if config != self._config:
            self.close()
            check_room(config)
            self._host, self._config = start_host(config, self._run.root), config
        return self._host

    def close(self) -> None:
        """Ends the host and its engines."""
        if self._host is not None:
            stop_host(self._host)
        self._host = self._config = None


@contextmanager
def hosting(run: RunDirectory) -> Iterator[Hosts]:
    """Gives the run's hosts; none is left afterwards."""
    hosts = Hosts(run)
    try:
        yield hosts
    finally:
        hosts.close()


def evaluate_chatbot(run: RunDirectory, hosts: Hosts, config: ChatbotRunConfig, chatbot: Adapter) -> Path:
    """Returns the folder of the conversations that measure a version, by group of users."""
    users: Mapping[str, Mapping[str, float]] = {group.name: weights for group, weights in groups_of_users(config)}

    def make(folder: Path) -> None:
        folder.mkdir()
        ask(hosts.of(config).measure, chatbot.path, users, str(folder))

    return run.once(f"{chatbot.name}/measured", make)


def reinforce(
    run: RunDirectory,
    hosts: Hosts,
    config: ChatbotRunConfig,
    stage: Stage,
    chatbot: Adapter,
    tell: Callable[[list[Line]], None],
) -> Adapter:
    """Returns the chatbot after a stage's rounds.

    Args:
        run: where it is kept.
        hosts: who holds the conversations.
        config: with the users of this stage.
        stage: which rounds.
        chatbot: as it is before; the KL divergence is to it.
        tell: is given the progress lines as they come.
    """
    settings = config.settings

    def make(folder: Path) -> None:
        rollouts = HostedRollouts(config, stage.first_round, hosts.of(config))
        rl = replace(config.rl, seed=config.seed + stage.number, num_rounds=stage.num_rounds)
        with training(f"RL: {stage.version}", progress_path(run, stage), keep=True, tell=tell) as progress:
            result = fit_chatbot(
                chatbot,
                rollouts,
                rl,
                chatbot_model(config),
                folder,
                stage.version,
                resources=settings.train,
                storage_path=run.path(CHECKPOINTS),
                progress_path=progress,
            )
        summary = {k: v for k, v in asdict(result).items() if isinstance(v, int | float)}
        write_json(run.path(f"logs/{stage.version}-summary.json"), summary)

    return adapter_at(run.once(f"{stage.version}/adapter", make), stage.version)


def progress_path(run: RunDirectory, stage: Stage) -> Path:
    """Returns the file of a stage's progress lines; it keeps those of interrupted attempts."""
    return run.path(f"logs/{stage.version}.jsonl")


def refresh_simulator(run: RunDirectory, config: ChatbotRunConfig, number: int, chatbot: Adapter) -> ChatbotRunConfig:
    """Returns the settings with a simulator more in the ensemble: Algorithm 1 re-run against the new chatbot.

    It begins with the newest simulator there is, on the adversarial run's own users and with its settings. Their real
    sessions were held with the chatbots of then: choose ``discriminator.view: user_only`` in the adversarial run, or
    read the leak control of the refresh.
    """
    name = f"refresh{number}"
    nested = refresh_settings(run, config, number, chatbot)
    inner = RunDirectory(nested.out_dir)
    newest = version_name(nested.num_iterations)
    if inner.has(f"{newest}/measures"):
        log.info("%s: there already", name)
    else:
        log.info("%s: begins", name)
        run_adversarial(nested)
    user = SpeakerConfig(
        engine="simulator", adapter=str(inner.path(f"{newest}/adapter")), sampling=config.settings.simulator.sampling
    )
    [(_, ensemble), *_] = groups_of_users(config)
    return replace(config, users={**config.users, name: user}, ensemble={**ensemble, name: config.refresh.weight})


def refresh_settings(run: RunDirectory, config: ChatbotRunConfig, number: int, chatbot: Adapter) -> RunConfig:
    """Returns the settings of the run of Algorithm 1 that refreshes the simulator for the ``number``-th time."""
    settings, source = config.settings, RunDirectory(config.run)
    earlier = config.users.get(f"refresh{number - 1}")
    newest = earlier.adapter if earlier else [*simulator_versions(source, settings).values()][-1].path
    return replace(
        settings,
        name=f"{config.name}-refresh{number}",
        out_dir=str(run.path(f"refresh{number}")),
        num_iterations=config.refresh.num_iterations,
        simulator=replace(settings.simulator, model=model_folder(source, settings.simulator.model), adapter=newest),
        backbone=model_folder(source, settings.backbone),
        chatbots={CHATBOT: replace(config.chatbot, adapter=chatbot.path)},
        zero_shot={},
    )
