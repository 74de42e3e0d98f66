"""The phases of Algorithm 1, each from files to files: what they read, what they make, in the paper's order.

A phase is finished when its folder has its name (``RunDirectory.once``). Orchestration alone: the method is in
``rlenv``, the training in ``trainers``, the serving in ``actors``.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

from launch.adversarial.simulation import Simulated, read_simulated, simulate
from launch.run.config import RunConfig
from launch.run.contents import read_data
from launch.run.directory import RunDirectory
from launch.run.progress import counting, training
from launch.run.roster import make_speaker, roster, system_text
from launch.run.serving import Serving
from rlenv.core.adapters import adapter_at
from rlenv.core.aio import run as run_async
from rlenv.core.files import read_records, to_line, write_atomic, write_json
from rlenv.core.protocols import Engine, Speaker
from rlenv.core.types import Adapter, PreferencePair, Seat, Session
from rlenv.data.sessions import read_with_report, split_by_user, write_sessions
from rlenv.learning.preferences import build_preferences
from rlenv.population.corpus import generate_sessions
from rlenv.prompting.chat_format import ChatFormat
from rlenv.prompting.system_texts import simulator_system_text, token_counter
from rlenv.speakers.engine import EngineSpeaker
from trainers.dpo.fit import fit_dpo
from trainers.sft.config import SftConfig, SftExample
from trainers.sft.fit import fit_sft

log = logging.getLogger(__name__)

USER: Seat = "user"
CHATBOT: Seat = "chatbot"


def prepare_data(run: RunDirectory, config: RunConfig) -> dict[str, list[Session]]:
    """Returns the real sessions of the three disjoint sets of users; writes them to ``data/``."""

    def make(folder: Path) -> None:
        counts: dict[str, int] = {}
        if config.data.path is None:
            population = config.data.population
            met = population.chatbots or None
            sessions = generate_sessions(population.num_users, population.sessions_per_user, config.seed, met)
        else:
            sessions, report = read_with_report(config.data.path)
            counts["merged_neighbours"] = report.num_merged
        long_enough = [s for s in sessions if len(s.user_messages()) >= config.data.min_user_turns]
        counts["too_short"] = len(sessions) - len(long_enough)
        shares = {
            "sft": config.data.sft_share,
            "adversarial": config.data.adversarial_share,
            "evaluation": config.data.evaluation_share,
        }
        folder.mkdir()
        for split, part in split_by_user(long_enough, shares, config.seed).items():
            write_sessions(folder / f"{split}.jsonl.gz", part)
            counts[f"{split}_sessions"] = len(part)
            counts[f"{split}_users"] = len({s.user_id for s in part})
        write_json(folder / "counts.json", counts)

    run.once("data", make)
    return read_data(run)


def fit_base_simulator(
    run: RunDirectory, config: RunConfig, base_model: str, chat: ChatFormat, sessions: Sequence[Session]
) -> Adapter:
    """Line 1: the base simulator, fine-tuned on the user turns of the SFT users (Eq. 1)."""
    if config.simulator.adapter:
        return adapter_at(config.simulator.adapter, "base")
    build = simulator_system_text(config.context, token_counter(chat))
    examples = [
        SftExample(session_id=s.session_id, system=build(s.context), messages=s.messages, seat="user")
        for s in sessions[: config.data.max_sft_sessions]
    ]
    return _fit_sft(run, config, config.sft, examples, base_model, "base/adapter", "base")


def fit_trained_chatbots(
    run: RunDirectory, config: RunConfig, serving: Serving, sessions: Sequence[Session]
) -> dict[str, Adapter]:
    """Returns the adapters of the hosted chatbots: loaded, or fine-tuned on the assistant turns of the SFT users."""
    adapters = {}
    for name, chatbot in roster(config).items():
        if chatbot.kind != "engine" or chatbot.adapter is None:
            continue
        if chatbot.adapter != "trained":
            adapters[name] = adapter_at(chatbot.adapter, name)
            continue
        chat, seat = serving.formats[chatbot.engine], CHATBOT
        build = system_text(seat, chatbot, config.context, token_counter(chat))
        examples = [
            SftExample(session_id=s.session_id, system=build(s.context), messages=s.messages, seat=seat)
            for s in sessions[: config.data.max_sft_sessions]
        ]
        model = serving.engine_configs[chatbot.engine].model
        adapters[name] = _fit_sft(run, config, config.chatbot_sft, examples, model, f"chatbots/{name}", name)
    return adapters


def _fit_sft(
    run: RunDirectory,
    config: RunConfig,
    settings: SftConfig,
    examples: Sequence[SftExample],
    base_model: str,
    where: str,
    name: str,
) -> Adapter:
    def make(folder: Path) -> None:
        title = f"SFT: {name}"
        with training(title, run.path(f"logs/sft-{name}.jsonl")) as progress:
            result = fit_sft(
                examples,
                replace(settings, seed=config.seed),
                base_model,
                folder,
                name,
                resources=config.train,
                storage_path=run.path("training"),
                progress_path=progress,
            )
        summary = {k: v for k, v in asdict(result).items() if isinstance(v, int | float)}
        write_json(run.path(f"logs/sft-{name}-summary.json"), summary)

    return adapter_at(run.once(where, make), name)


def make_simulator(
    config: RunConfig, serving: Serving, engines: Mapping[str, Engine], adapter: Adapter
) -> EngineSpeaker:
    """Returns the trained simulator in the user's seat: one adapter version."""
    chat = serving.formats["simulator"]
    build = simulator_system_text(config.context, token_counter(chat))
    sampling = config.simulator.sampling
    return EngineSpeaker(adapter.name, engines["simulator"], chat, USER, build, sampling, adapter)


def collect_sessions(
    run: RunDirectory,
    config: RunConfig,
    serving: Serving,
    simulator: Adapter | str,
    chatbot_adapters: Mapping[str, Adapter],
    contexts: Mapping[str, Sequence[Session]],
) -> list[Simulated]:
    """Line 4: conversations of the current simulator with the chatbots, by stepping the env.

    ``simulator`` is the current adapter version, or the name of a zero-shot model.
    """
    version = simulator if isinstance(simulator, str) else simulator.name

    def make(folder: Path) -> None:
        speakers = [*roster(config).values(), *([config.zero_shot[version]] if isinstance(simulator, str) else [])]
        names = {s.engine for s in speakers if s.kind == "engine"}
        if not isinstance(simulator, str):
            names.add("simulator")
        with serving.engines(*sorted(names)) as engines:
            seat = partial(
                make_speaker,
                context=config.context,
                engines=engines,
                formats=serving.formats,
                adapters=chatbot_adapters,
            )
            user: Speaker
            if isinstance(simulator, str):
                user = seat(version, USER, config.zero_shot[version])
            else:
                user = make_simulator(config, serving, engines, simulator)
            chatbots = {name: seat(name, CHATBOT, chatbot) for name, chatbot in roster(config).items()}
            simulate(folder, f"{version}: conversations", version, user, chatbots, contexts, config)

    return read_simulated(run.once(f"{version}/simulated", make))


def make_preferences(
    run: RunDirectory,
    config: RunConfig,
    serving: Serving,
    adapter: Adapter,
    checkpoint: Path,
    simulated: Sequence[Simulated],
) -> list[PreferencePair]:
    """Lines 6 to 8: rewards, critical turns, alternatives and the kept pairs, of the adversarial users alone."""
    chosen = [s for s in simulated if s.part == "adversarial"]

    def make(folder: Path) -> None:
        title = f"{adapter.name}: preferences"
        with (
            serving.engines("simulator") as engines,
            serving.discriminator(checkpoint) as discriminator,
            counting(title, len(chosen)) as advance,
        ):
            simulator = make_simulator(config, serving, engines, adapter)
            work = [(s.session, s.state) for s in chosen]
            made = run_async(build_preferences(work, simulator, discriminator, config.preferences, advance))
        folder.mkdir()
        for name, records in (("scores", made.scores), ("pairs", made.pairs)):
            write_atomic(folder / f"{name}.jsonl", (to_line(record.model_dump(mode="json")) for record in records))
        write_json(folder / "counts.json", made.counts)

    return read_pairs(run.once(f"{adapter.name}/preferences", make) / "pairs.jsonl")


def read_pairs(path: Path) -> list[PreferencePair]:
    """Returns the pairs of a ``pairs.jsonl``."""
    return read_records(path, PreferencePair)


def update_simulator(
    run: RunDirectory,
    config: RunConfig,
    serving: Serving,
    reference: Adapter,
    pairs: Sequence[PreferencePair],
    name: str,
) -> Adapter:
    """Line 9: DPO on the pairs, with the current simulator as reference (Eq. 5)."""

    def make(folder: Path) -> None:
        if not pairs:
            log.warning("%s: no pair was kept, so the simulator stays as it is", name)
            shutil.copytree(reference.path, folder)
            return
        if not serving.keeps_engines:
            serving.close()
        with training(f"DPO: {name}", run.path(f"logs/dpo-{name}.jsonl")) as progress:
            result = fit_dpo(
                reference,
                pairs,
                replace(config.dpo, seed=config.seed),
                serving.engine_configs["simulator"].model,
                folder,
                name,
                resources=config.train,
                storage_path=run.path("training"),
                progress_path=progress,
            )
        if result.rate_max == 0:
            log.warning(
                "%s: %d pairs gave no step after the warm-up, so the simulator stays as it is; lower dpo.warmup or "
                "dpo.gradient_accumulation",
                name,
                result.num_pairs,
            )
        summary = {k: v for k, v in asdict(result).items() if isinstance(v, int | float)}
        write_json(run.path(f"logs/dpo-{name}-summary.json"), summary)

    return adapter_at(run.once(f"{name}/adapter", make), name)


def read_summary(run: RunDirectory, name: str) -> dict[str, float]:
    """Returns the figures that a training phase left, {} where it had none."""
    path = run.path(f"logs/{name}-summary.json")
    return json.loads(path.read_text()) if path.exists() else {}
