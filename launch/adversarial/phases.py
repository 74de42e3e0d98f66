"""The phases of Algorithm 1, in the paper's order. Each reads files of the run directory and writes one folder.

A phase is finished when its folder has its final name (``RunDirectory.once``). This file only orchestrates: the method
is in ``rlenv``, training in ``trainers``, serving in ``actors``.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from launch.adversarial.cards import chatbot_card, simulator_card, write_card
from launch.adversarial.run import AdversarialRun, make_simulator
from launch.adversarial.simulation import Simulated, read_simulated, simulate
from launch.run.config.data import DataConfig
from launch.run.config.speaker import SpeakerConfig
from launch.run.contents import FURTHER_SFT, read_data
from launch.run.directory import RunDirectory
from launch.run.progress import counting
from launch.run.roster import system_text
from launch.run.serving import Serving
from launch.run.training import Training
from rlenv.core.adapters import adapter_at
from rlenv.core.aio import run as run_async
from rlenv.core.errors import ConfigError
from rlenv.core.files import read_records, to_line, write_atomic, write_json
from rlenv.core.protocols import Speaker
from rlenv.core.settings import to_dict
from rlenv.core.types import Adapter, Alternatives, PreferencePair, Record, Seat, Session
from rlenv.data.scrubbing import is_scrubbed
from rlenv.data.sessions import read_with_report, split_by_user, with_messages, write_sessions
from rlenv.learning.preferences import build_preferences
from rlenv.population.corpus import generate_sessions
from rlenv.prompting.context import ContextConfig
from rlenv.prompting.system_texts import SystemText, simulator_system_text, token_counter
from rlenv.speakers.engine import EngineSpeaker
from rlenv.speakers.resampled import ResampledSpeaker
from trainers.dpo.fit import fit_dpo
from trainers.sft.config import SftConfig, SftExample
from trainers.sft.fit import fit_sft

log = logging.getLogger(__name__)
ALTERNATIVES = "alternatives.jsonl.gz"


def prepare_data(directory: RunDirectory, data: DataConfig, seed: int) -> dict[str, list[Session]]:
    """Returns the real sessions of the three disjoint sets of users, by split, and writes them to ``data/``."""

    def make(folder: Path) -> None:
        counts: dict[str, int] = {}
        if data.path is None:
            population = data.population
            chatbots = population.chatbots or None
            sessions = generate_sessions(population.num_users, population.sessions_per_user, seed, chatbots)
        else:
            sessions, report = read_with_report(data.path)
            counts["scrubbed"] = check_scrubbed(sessions, data)
            counts["merged_neighbours"] = report.num_merged
        sessions, counts["without_messages"] = with_messages(sessions)
        long_enough = [s for s in sessions if len(s.user_messages()) >= data.min_user_turns]
        counts["too_short"] = len(sessions) - len(long_enough)
        shares = {
            "sft": data.sft_share,
            "adversarial": data.adversarial_share,
            "evaluation": data.evaluation_share,
        }
        folder.mkdir()
        for split, part in split_by_user(long_enough, shares, seed).items():
            write_sessions(folder / f"{split}.jsonl.gz", part)
            counts[f"{split}_sessions"] = len(part)
            counts[f"{split}_users"] = len({s.user_id for s in part})
        write_json(folder / "counts.json", counts)

    directory.once("data", make)
    return read_data(directory)


def check_scrubbed(sessions: Sequence[Session], data: DataConfig) -> int:
    """Returns how many sessions carry the mark of ``rlenv scrub``.

    Raises:
        ConfigError: ``data.scrub`` requires it of all, and some have none.
    """
    marked = sum(map(is_scrubbed, sessions))
    if data.scrub == "required" and marked < len(sessions):
        raise ConfigError(
            f"data.scrub: {len(sessions) - marked:,} of {len(sessions):,} sessions of {data.path} carry no mark of "
            "rlenv scrub; scrub the file first (rlenv scrub FILE OUT) and give OUT as data.path"
        )
    return marked


def fit_base_simulator(run: AdversarialRun, sessions: Sequence[Session]) -> Adapter:
    """Returns the base simulator, fine-tuned on the user turns of the SFT users (line 1, Eq. 1)."""
    if run.config.simulator.adapter:
        return adapter_at(run.config.simulator.adapter, "base")
    text = simulator_system_text(run.config.context, token_counter(run.serving.formats["simulator"]))
    examples = _examples(sessions, text, "user")
    model = run.serving.simulator_model
    return _fit_sft(
        run.training,
        run.config.sft,
        examples,
        model,
        "base/adapter",
        "base",
        simulator_card(run.directory, run.config, "base"),
    )


def fit_chatbots(
    training: Training,
    chatbots: Mapping[str, SpeakerConfig],
    serving: Serving,
    settings: SftConfig,
    context: ContextConfig,
    sessions: Sequence[Session],
) -> dict[str, Adapter]:
    """Returns the adapters of the hosted chatbots: given, or fine-tuned on the chatbot turns of the SFT sessions."""
    adapters = {}
    for name, chatbot in chatbots.items():
        if chatbot.kind != "engine" or chatbot.adapter is None:
            continue
        if chatbot.adapter != "trained":
            adapters[name] = adapter_at(chatbot.adapter, name)
            continue
        text = system_text("chatbot", chatbot, context, token_counter(serving.formats[chatbot.engine]))
        model = serving.engine_configs[chatbot.engine].model
        examples = _examples(sessions, text, "chatbot")
        method, rows = "supervised fine-tuning on the chatbots' messages", {"sessions": len(examples)}
        card = chatbot_card(name, model, method, rows, "chatbot_sft", to_dict(settings))
        adapters[name] = _fit_sft(training, settings, examples, model, f"chatbots/{name}", name, card)
    return adapters


def _examples(sessions: Sequence[Session], text: SystemText, seat: Seat) -> list[SftExample]:
    return [
        SftExample(session_id=s.session_id, system=text(s.context), messages=s.messages, seat=seat) for s in sessions
    ]


def _fit_sft(
    training: Training,
    settings: SftConfig,
    examples: Sequence[SftExample],
    model: str,
    where: str,
    name: str,
    card: str,
    start: Adapter | None = None,
    serving: Serving | None = None,
) -> Adapter:
    def make(folder: Path) -> None:
        if serving is not None:
            serving.make_room()
        with training.phase(f"SFT: {name}", f"sft-{name}") as options:
            result = fit_sft(examples, training.seeded(settings), model, folder, name, start, **options)
        write_card(folder, card)
        training.write_summary(f"sft-{name}", result)

    return adapter_at(training.directory.once(where, make), name)


def collect_sessions(
    run: AdversarialRun, simulator: Adapter | str, contexts: Mapping[str, Sequence[Session]]
) -> list[Simulated]:
    """Returns conversations of the current simulator with the chatbots (line 4).

    ``simulator`` is the current adapter version, or the name of a zero-shot model.
    """
    version = simulator if isinstance(simulator, str) else simulator.name

    def make(folder: Path) -> None:
        with run.speakers(simulator) as (user, chatbots):
            _simulate(run, folder, version, user, chatbots, contexts)

    return read_simulated(run.directory.once(f"{version}/simulated", make))


def collect_resampled(
    run: AdversarialRun, adapter: Adapter, checkpoint: Path, n: int, contexts: Mapping[str, Sequence[Session]]
) -> list[Simulated]:
    """Returns conversations in which each user message is drawn from ``n`` candidates by a discriminator."""
    version = f"{adapter.name}_of_{n}"

    def make(folder: Path) -> None:
        with (
            run.speakers(adapter) as (user, chatbots),
            run.serving.discriminator(checkpoint) as discriminator,
        ):
            assert isinstance(user, EngineSpeaker)
            _simulate(run, folder, version, ResampledSpeaker(user, discriminator, n), chatbots, contexts)

    return read_simulated(run.directory.once(f"{version}/simulated", make))


def _simulate(
    run: AdversarialRun,
    folder: Path,
    version: str,
    user: Speaker,
    chatbots: Mapping[str, Speaker],
    contexts: Mapping[str, Sequence[Session]],
) -> None:
    config, title = run.config, f"{version}: conversations"
    progress = run.directory.path(f"logs/conversations-{version}.jsonl")
    simulate(folder, title, version, user, chatbots, contexts, config.collect, config.env, config.seed, progress)


def further_sft(run: AdversarialRun, sessions: Sequence[Session]) -> Adapter:
    """Returns the honest baseline: the base simulator, fine-tuned further on the adversarial users' real sessions."""
    name, config = FURTHER_SFT, run.config
    base = adapter_at(config.simulator.adapter or run.directory.path("base/adapter"), "base")
    text = simulator_system_text(config.context, token_counter(run.serving.formats["simulator"]))
    model, card = run.serving.simulator_model, simulator_card(run.directory, config, name)
    return _fit_sft(
        run.training,
        config.sft,
        _examples(sessions, text, "user"),
        model,
        f"{name}/adapter",
        name,
        card,
        base,
        run.serving,
    )


@dataclass(frozen=True)
class Preferences:
    """What the next simulator is trained on."""

    pairs: list[PreferencePair]
    alternatives: list[Alternatives]
    """All alternatives of the turns that were compared; read only for targets that use them."""
    real: Mapping[str, Session]
    """The real session that gave each simulated session its context, by the latter's id; see ``dpo.replay``."""


def make_preferences(
    run: AdversarialRun,
    adapter: Adapter,
    checkpoint: Path,
    simulated: Sequence[Simulated],
    contexts: Mapping[str, Sequence[Session]],
) -> Preferences:
    """Returns the preferences on the adversarial users' conversations (lines 6 to 8).

    Lines 6 to 8 are rewards, critical turns, and alternatives; the folder holds the scores and counts too.
    """
    chosen = [s for s in simulated if s.part == "adversarial"]
    conversations = [(s.session, s.state) for s in chosen]

    def make(folder: Path) -> None:
        progress = run.directory.path(f"logs/preferences-{adapter.name}.jsonl")
        with (
            run.serving.engines("simulator") as engines,
            run.serving.discriminator(checkpoint) as discriminator,
            counting(f"{adapter.name}: preferences", len(conversations), progress) as advance,
        ):
            simulator = make_simulator(run.config, run.serving, engines, adapter)
            result = run_async(
                build_preferences(conversations, simulator, discriminator, run.config.preferences, advance)
            )
        folder.mkdir()
        files: dict[str, Sequence[Record]] = {"scores.jsonl": result.scores, "pairs.jsonl": result.pairs}
        if uses_alternatives:
            files[ALTERNATIVES] = result.alternatives
        for name, records in files.items():
            write_atomic(folder / name, (to_line(record.model_dump(mode="json")) for record in records))
        write_json(folder / "counts.json", result.counts)

    uses_alternatives = run.config.dpo.targets != "hard"
    folder = run.directory.once(f"{adapter.name}/preferences", make)
    alternatives = read_records(folder / ALTERNATIVES, Alternatives) if uses_alternatives else []
    session_of = {session.session_id: session for session in contexts["adversarial"]}
    real = {s.session.session_id: session_of[s.context_id] for s in chosen}
    return Preferences(read_pairs(folder / "pairs.jsonl"), list(alternatives), real)


def read_pairs(path: Path) -> list[PreferencePair]:
    """Returns the preference pairs of a ``pairs.jsonl``."""
    return read_records(path, PreferencePair)


def update_simulator(
    run: AdversarialRun, reference: Adapter, preferences: Preferences, name: str, step: float = 1.0
) -> Adapter:
    """Returns the next simulator: DPO with the current simulator as reference (line 9, Eq. 5).

    ``step`` multiplies the learning rate.
    """

    card = simulator_card(run.directory, run.config, name, reference.name)

    def make(folder: Path) -> None:
        if not (preferences.pairs if run.config.dpo.targets == "hard" else preferences.alternatives):
            log.warning("%s: no preference pair was kept, so the simulator is unchanged", name)
            shutil.copytree(reference.path, folder)
            write_card(folder, card)
            return
        run.serving.make_room()
        settings, model = run.training.seeded(run.config.dpo), run.serving.engine_configs["simulator"].model
        settings = replace(settings, learning_rate=step * settings.learning_rate)
        text = simulator_system_text(run.config.context, token_counter(run.serving.formats["simulator"]))
        with run.training.phase(f"DPO: {name}", f"dpo-{name}") as options:
            result = fit_dpo(
                reference,
                preferences.pairs,
                preferences.alternatives,
                settings,
                model,
                folder,
                name,
                dict(zip(preferences.real, _examples(list(preferences.real.values()), text, "user"), strict=True)),
                **options,
            )
        if result.rate_max == 0:
            log.warning(
                "%s: %d pairs gave no step after the warm-up, so the simulator is unchanged; lower dpo.warmup or "
                "dpo.gradient_accumulation",
                name,
                result.num_pairs,
            )
        write_card(folder, card)
        run.training.write_summary(f"dpo-{name}", result)

    return adapter_at(run.directory.once(f"{name}/adapter", make), name)
