"""The phases of a chatbot's reinforcement learning. Each reads files of the run directory and writes one folder.

chatbots/chatbot             the starting adapter, where this run fine-tunes it
VERSION/measured/*.jsonl.gz  evaluation episodes of a version, by group of users; versions are start, rl1, rl2, ...
rounds/                      conversations and figures of every round (``launch.chatbot.records``)
rl1/adapter                  the adapter after the rounds before the first refresh, or after all rounds
refresh1/                    a run of Algorithm 1 against rl1
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from launch.adversarial.algorithm import run_adversarial
from launch.adversarial.cards import chatbot_card, write_card
from launch.adversarial.phases import fit_chatbots
from launch.adversarial.pretraining import pretrain_small_llama
from launch.chatbot.config import CHATBOT
from launch.chatbot.rollout_host import HostedRollouts
from launch.chatbot.run import ChatbotRun, chatbot_as, groups_of_users
from launch.run.config.run import RunConfig
from launch.run.config.speaker import SpeakerConfig
from launch.run.contents import SMALL_LLAMA, model_folder, read_data, simulator_versions, version_name
from launch.run.directory import RunDirectory
from launch.run.roster import system_text
from launch.run.serving import Serving
from rlenv.core.adapters import adapter_at
from rlenv.core.progress import Line
from rlenv.core.settings import to_dict
from rlenv.core.types import Adapter
from rlenv.evaluation.chatbot_rl.records import Users
from rlenv.prompting.system_texts import approximate_tokens
from trainers.chatbot_rl.fit import fit_chatbot

log = logging.getLogger(__name__)
START = "start"


@dataclass(frozen=True)
class Stage:
    """The rounds between two refreshes of the simulator."""

    number: int
    """Counts from 1."""
    first_round: int
    num_rounds: int

    @property
    def version(self) -> str:
        """The name of the chatbot's version after the stage."""
        return f"rl{self.number}"


def stages(num_rounds: int, alternate_every: int = 0) -> list[Stage]:
    """Returns the stages of a run: one in all, or one per ``alternate_every`` rounds."""
    every = alternate_every or num_rounds
    firsts = range(0, num_rounds, every)
    return [Stage(number, first, min(every, num_rounds - first)) for number, first in enumerate(firsts, start=1)]


def prepare_chatbot_model(run: ChatbotRun) -> ChatbotRun:
    """Returns the run with the chatbot's base model resolved to a folder; trains or unpacks the model if needed."""
    settings, chatbot = run.config.settings, run.config.chatbot
    engine = settings.engines[chatbot.engine]
    if engine.model == "auto":
        folder = model_folder(run.source, settings.simulator.model)
    elif engine.model == SMALL_LLAMA:
        text = system_text("chatbot", chatbot, settings.context, approximate_tokens)
        training = replace(run.training, seed=settings.seed)
        folder = pretrain_small_llama(training, settings.pretrain, settings.data.population, {"chatbot": text})
    else:
        folder = model_folder(run.directory, engine.model)
    engines = {**settings.engines, chatbot.engine: replace(engine, model=folder)}
    return run.changed(settings=replace(settings, engines=engines))


def fit_start(run: ChatbotRun) -> Adapter:
    """Returns the starting adapter: the given one, or one fine-tuned on the assistant turns of the SFT users."""
    settings = run.config.settings
    serving = Serving(settings, model_folder(run.source, settings.simulator.model), run.directory.path("logs"))
    sessions = read_data(run.source)["sft"][: settings.data.max_sft_sessions]
    training = replace(run.training, seed=settings.seed)
    chatbots = {CHATBOT: run.config.chatbot}
    fitted = fit_chatbots(training, chatbots, serving, settings.chatbot_sft, settings.context, sessions)
    return chatbot_as(fitted[CHATBOT], START)


def evaluate_chatbot(run: ChatbotRun, chatbot: Adapter, groups: Sequence[tuple[Users, Mapping[str, float]]]) -> Path:
    """Returns the folder of a version's evaluation episodes, one file per group of users.

    Args:
        run: the run, with the users of the version's stage, so that the stage's host collects the episodes.
        chatbot: the version.
        groups: the groups of users, the same for all versions.
    """
    users = {group.name: weights for group, weights in groups}

    def make(folder: Path) -> None:
        folder.mkdir()
        run.hosts.host_for(run.config).ask("measure", chatbot.path, users, str(folder))

    return run.directory.once(f"{chatbot.name}/measured", make)


def reinforce(run: ChatbotRun, stage: Stage, chatbot: Adapter, on_lines: Callable[[list[Line]], None]) -> Adapter:
    """Returns the chatbot after a stage's rounds.

    Args:
        run: the run, with the users of this stage.
        stage: the rounds to train.
        chatbot: the chatbot before the stage, and the reference of the KL divergence.
        on_lines: called with all progress lines whenever there are new ones.
    """
    config, version = run.config, stage.version

    def make(folder: Path) -> None:
        rollouts = HostedRollouts(config, stage.first_round, run.hosts.host_for(config))
        rl = replace(config.rl, seed=config.seed + stage.number, num_rounds=stage.num_rounds)
        with run.training.phase(f"RL: {version}", version, keep=True, on_lines=on_lines) as options:
            result = fit_chatbot(chatbot, rollouts, rl, run.chatbot_model, folder, version, **options)
        rows = {"started from": chatbot.name, "rounds of conversations with simulated users": stage.num_rounds}
        method = "reinforcement learning against simulated users"
        card = chatbot_card(f"{config.name} {version}", run.chatbot_model, method, rows, "rl", to_dict(rl))
        write_card(folder, card)
        run.training.write_summary(version, result)

    return adapter_at(run.directory.once(f"{version}/adapter", make), version)


def progress_path(directory: RunDirectory, stage: Stage) -> Path:
    """Returns the file of a stage's progress lines, interrupted attempts included."""
    return directory.path(f"logs/{stage.version}.jsonl")


def refresh_simulator(run: ChatbotRun, number: int, chatbot: Adapter) -> ChatbotRun:
    """Returns the run with one more simulator in the ensemble, trained by Algorithm 1 against the new chatbot.

    It starts from the newest simulator, with the users and settings of the adversarial run. Their real sessions are
    with earlier chatbots, which can give the simulation away to the discriminator. Set
    ``discriminator.view: user_only`` in the adversarial run, or check the refresh's leak control.
    """
    name = f"refresh{number}"
    settings = refresh_settings(run, number, chatbot)
    refreshed, newest = RunDirectory(settings.out_dir), version_name(settings.num_iterations)
    run.hosts.close()
    if refreshed.has(f"{newest}/measures"):
        log.info("%s: already done", name)
    else:
        log.info("%s: started", name)
        run_adversarial(settings)
    config = run.config
    adapter, sampling = str(refreshed.path(f"{newest}/adapter")), config.settings.simulator.sampling
    user = SpeakerConfig(engine="simulator", adapter=adapter, sampling=sampling)
    [(_, ensemble), *_] = groups_of_users(config)
    return run.changed(users={**config.users, name: user}, ensemble={**ensemble, name: config.refresh.weight})


def refresh_settings(run: ChatbotRun, number: int, chatbot: Adapter) -> RunConfig:
    """Returns the settings of the run of Algorithm 1 that makes refresh ``number``, counted from 1."""
    config, settings = run.config, run.config.settings
    earlier = config.users.get(f"refresh{number - 1}")
    newest = earlier.adapter if earlier else [*simulator_versions(run.source, settings).values()][-1].path
    model = model_folder(run.source, settings.simulator.model)
    return replace(
        settings,
        name=f"{config.name}-refresh{number}",
        out_dir=str(run.directory.path(f"refresh{number}")),
        num_iterations=config.refresh.num_iterations,
        simulator=replace(settings.simulator, model=model, adapter=newest),
        backbone=model_folder(run.source, settings.backbone),
        chatbots={CHATBOT: replace(config.chatbot, adapter=chatbot.path)},
        zero_shot={},
    )
