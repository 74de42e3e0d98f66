"""The phases of a study after its adversarial run: real sessions, simulated sessions, and labels of all of them.

They are built from the phases of ``launch.adversarial.phases`` and finish the same way, when their folder appears.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from launch.adversarial.phases import collect_sessions, fit_base_simulator, prepare_data
from launch.adversarial.run import AdversarialRun
from launch.run.config.run import RunConfig
from launch.run.contents import model_folder, read_data, version_name
from launch.run.directory import RunDirectory
from launch.run.progress import counting
from launch.run.readers import ADVERSARIAL
from launch.run.roster import make_speaker
from launch.run.serving import Serving
from launch.run.settings import open_run
from launch.study.config import (
    UNTUNED,
    StudyConfig,
    adversarial_config,
    evaluation_run_config,
    roster_of,
    treatments_of,
)
from rlenv.core.aio import run as run_async
from rlenv.core.errors import ConfigError
from rlenv.core.types import Adapter, Session
from rlenv.data.sessions import read_sessions, write_sessions
from rlenv.judges.annotate import NamedJudge, judged, with_labels
from rlenv.judges.learned import ActionClassifier
from rlenv.judges.oracle import OracleJudge
from rlenv.population.chatbots.scripted import ScriptedChatbot
from rlenv.population.corpus import first_sessions, generate_sessions

REAL, JUDGED = "real", "real-judged"
"""Files of the real sessions: with their true labels, and with the labels of the judges of simulated sessions."""
REAL_SEED, JUDGE_SEED = 2_000_003, 3_000_017
"""Added to the run's seed for users who are in none of the run's splits."""
Contexts = dict[str, list[Session]]


def size_name(size: int) -> str:
    """Returns the name of the base simulator that was fine-tuned on ``size`` sessions."""
    return f"sft-{size}"


def simulate_real_sessions(study: RunDirectory, config: StudyConfig) -> list[Session]:
    """Returns the real sessions: new population users with every chatbot and treatment, under the run's limits."""

    def make(folder: Path) -> None:
        roster = {**roster_of(config), **treatments_of(config)}
        chatbots = [_scripted(name, config) for name in roster]
        number, seed = config.real_sessions_per_chatbot * len(chatbots), config.run.seed + REAL_SEED
        folder.mkdir()
        with counting("real sessions", number) as advance:
            sessions = []
            for session in first_sessions(number, seed, chatbots, config.run.env):
                sessions.append(session)
                advance()
        write_sessions(folder / "sessions.jsonl.gz", sessions)

    return read_sessions(study.once(REAL, make) / "sessions.jsonl.gz", neighbours="keep")


def _scripted(name: str, config: StudyConfig) -> ScriptedChatbot:
    speaker = {**roster_of(config), **treatments_of(config)}[name]
    chatbot = make_speaker(name, "chatbot", speaker, config.run.context, engines={}, formats={}, adapters={})
    assert isinstance(chatbot, ScriptedChatbot)
    return chatbot


def first_of_each_chatbot(sessions: Sequence[Session], number: int, chatbots: Sequence[str]) -> Contexts:
    """Returns the first ``number`` sessions with each chatbot as evaluation contexts."""
    chosen: dict[str, list[Session]] = {name: [] for name in chatbots}
    for session in sessions:
        if session.chatbot in chosen and len(chosen[session.chatbot]) < number:
            chosen[session.chatbot].append(session)
    return {"adversarial": [], "evaluation": [s for of_chatbot in chosen.values() for s in of_chatbot]}


def require_sft_sessions(config: StudyConfig) -> None:
    """Checks, before the long phases, that there are as many SFT sessions as the largest of ``sft_sizes``.

    It runs the first phase of the adversarial run, which splits the data.

    Raises:
        ConfigError: the SFT users have fewer sessions.
    """
    settings = adversarial_config(config)
    directory = RunDirectory(settings.out_dir)
    with directory.locked():
        open_run(directory, settings, ADVERSARIAL)
        num_sessions = len(prepare_data(directory, settings.data, settings.seed)["sft"])
    if num_sessions < config.sft_sizes[-1]:
        raise ConfigError(
            f"sft_sizes: expected at most {num_sessions}, the number of SFT sessions, got {config.sft_sizes[-1]}; "
            "lower it, or raise run.data.population.num_users or run.data.sft_share, in a new out_dir"
        )


def fit_sizes(study: RunDirectory, config: StudyConfig) -> dict[int, Adapter]:
    """Returns the base simulators fine-tuned on fewer sessions, each in its own run directory (Table 1)."""
    run = AdversarialRun(adversarial_config(config))
    sessions = read_data(run.directory)["sft"]
    return {
        size: fit_base_simulator(_size_run(study, run.config, size, run.serving), sessions[:size])
        for size in config.sft_sizes[:-1]
    }


def _size_run(study: RunDirectory, settings: RunConfig, size: int, serving: Serving) -> AdversarialRun:
    """Returns the run whose base simulator is fine-tuned on ``size`` sessions."""
    directory = study.inside(f"sizes/{size}")
    capped = replace(settings, out_dir=str(directory.root), data=replace(settings.data, max_sft_sessions=size))
    run = AdversarialRun(capped, directory, serving)
    open_run(run.directory, capped, ADVERSARIAL)
    return run


def simulate_all(
    study: RunDirectory,
    config: StudyConfig,
    versions: Mapping[str, Adapter],
    sizes: Mapping[int, Adapter],
    real: Sequence[Session],
) -> None:
    """Simulates the sessions to evaluate, with the untuned model, every version and the bases of smaller SFT sizes."""
    trained, settings = adversarial_config(config), evaluation_run_config(config)
    model = model_folder(RunDirectory(trained.out_dir), settings.simulator.model)
    serving = Serving(settings, model, study.path("logs"))
    contexts = first_of_each_chatbot(real, config.simulated_sessions_per_chatbot, list(settings.chatbots))
    fewer = first_of_each_chatbot(real, config.size_sessions_per_chatbot, list(roster_of(config)))
    measured = AdversarialRun(settings, study.inside("measured"), serving)
    open_run(measured.directory, settings, ADVERSARIAL)
    try:
        simulators: list[Adapter | str] = [UNTUNED, *versions.values()]
        for simulator in simulators:
            collect_sessions(measured, simulator, contexts)
        for size, adapter in sizes.items():
            own = _size_run(study, trained, size, serving).directory
            collect_sessions(AdversarialRun(settings, own, serving), adapter, fewer)
    finally:
        serving.close()


def label_all(study: RunDirectory, config: StudyConfig, versions: Collection[str], sizes: Collection[int]) -> None:
    """Labels all evaluation sessions by judges that read only the text: the oracle (issues), a classifier (actions)."""
    sources = {name: [_simulated(study.path("measured"), name)] for name in (UNTUNED, *versions)}
    for name in versions:  # the run's own sessions with evaluation users, which its discriminators scored
        sources[name].append(_simulated(study.path("adversarial"), name))
    for size in sizes:
        sources[size_name(size)] = [_simulated(study.path(f"sizes/{size}"), version_name(0))]
    sources[JUDGED] = [study.path(f"{REAL}/sessions.jsonl.gz")]

    def make(folder: Path) -> None:
        run = config.run
        chatbots = config.chatbots or None
        training_sessions = generate_sessions(config.judge_sessions, 1, run.seed + JUDGE_SEED, chatbots, run.env)
        judges: tuple[NamedJudge, ...] = (OracleJudge(), ActionClassifier(training_sessions, run.seed))
        folder.mkdir()
        with counting("labels", len(sources)) as advance:
            for name, paths in sources.items():
                sessions = [s for path in paths for s in read_sessions(path, neighbours="keep") if _held_out(s)]
                for judge in judges:
                    annotations = run_async(judged(sessions, judge))
                    sessions, _ = with_labels(sessions, annotations, judge, replace=True)
                write_sessions(folder / f"{name}.jsonl.gz", sessions)
                advance()

    study.once("labelled", make)


def _simulated(run: Path, version: str) -> Path:
    return run / version / "simulated/sessions.jsonl"


def _held_out(session: Session) -> bool:
    return (session.model_extra or {}).get("part", "evaluation") == "evaluation"


def read_labelled(study: RunDirectory, name: str) -> tuple[Session, ...]:
    """Returns the sessions that ``label_all`` wrote under ``name``."""
    return tuple(read_sessions(study.path(f"labelled/{name}.jsonl.gz"), neighbours="keep"))
