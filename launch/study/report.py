"""The study's report: that of ``rlenv evaluate`` with the study's own page before it, and a short table on the console.

report/report.html, metrics.json, tables/*.csv, figures/*.png     as rlenv evaluate leaves them
report/goals.json                                                 what was asked and what came
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table

from launch.reports.embedding import EmbeddingOptions, make_embeddings
from launch.reports.figures import COLOURS, Picture, new_figure, save
from launch.reports.inputs import Inputs, read_inputs
from launch.reports.output import write_evaluation
from launch.reports.pages import Section, section
from launch.reports.sheets import Sheet
from launch.run.contents import version_name
from launch.run.directory import RunDirectory
from launch.study.config import AGGREGATE, UNTUNED, StudyConfig, adversarial_config, roster_of
from launch.study.phases import JUDGED, read_labelled, size_name
from launch.study.tables import (
    LINGUISTIC_NAMES,
    Goal,
    agreement_sheet,
    goals,
    goals_sheet,
    like_with_like_sheet,
    sizes_sheet,
)
from rlenv.core.files import write_json
from rlenv.core.types import Session
from rlenv.evaluation.ab_tests import AbTest, ab_table
from rlenv.evaluation.embeddings.sessions import EmbeddingConfig
from rlenv.evaluation.linguistic import TABLE_1
from rlenv.evaluation.statistics.intervals import Estimate
from rlenv.evaluation.subjects import Simulator, aggregate
from rlenv.evaluation.suite import Evaluation, EvaluationConfig, evaluate
from rlenv.judges.compare import label_agreement

GOALS = "goals.json"
ABOUT = (
    "Everything here is synthetic: the real users are the reference population's, whose true actions and issues are "
    "known. {base} Untuned, it stands for the zero-shot models of the paper. Simulated sessions are labelled by judges "
    "who read the texts alone, the real ones carry the truth; the tables below say what that alone costs."
)
POPULATION_LLAMA = (
    "The base model of every simulator learnt the population's language from sessions of other users, whose chatbots "
    "failed far more often than those that are compared here: it knows how users talk, not how often which chatbot "
    "lets them down, and is nearer to the users than the paper's are."
)


def write_study_report(study: RunDirectory, config: StudyConfig, real: Sequence[Session]) -> Path:
    """Returns the folder of the report, which has every table against the truth.

    Args:
        study: its directory, with all sessions labelled.
        config: the study's.
        real: the truth, of chatbots and treatments.
    """

    def make(folder: Path) -> None:
        folder.mkdir()
        _write(folder, study, config, real)

    return study.once("report", make)


def _write(folder: Path, study: RunDirectory, config: StudyConfig, real: Sequence[Session]) -> None:
    roster = tuple(roster_of(config))
    settings = EvaluationConfig(seed=config.run.seed, max_turns=config.run.env.max_turns)
    inputs = read_inputs([adversarial_config(config).out_dir], [])
    everyone = _simulators(study, config, inputs)
    inputs.simulators = [_only(s, roster) for s in everyone]
    inputs.real = [s for s in real if s.chatbot in roster]
    judged = read_labelled(study, JUDGED)
    own_judged = [s for s in judged if s.chatbot in roster]

    figure3 = make_embeddings(
        inputs.simulators, inputs.real, EmbeddingOptions(cache=study.path("embeddings")),
        EmbeddingConfig(seed=config.run.seed),
    )  # fmt: skip
    found = evaluate(inputs.simulators, inputs.real, settings, embeddings=figure3)
    tests = [AbTest(name=name, control=t.control, treatment=name) for name, t in config.treatments.items()]
    if tests:
        found = found.model_copy(update={"ab": ab_table(tests, everyone, real, effect=settings.effect)})
    undisputed = [s.model_copy(update={"discriminator": None}) for s in inputs.simulators]
    same = evaluate(undisputed, own_judged, settings)
    cost = evaluate([Simulator(name="real, judged", sessions=tuple(own_judged))], inputs.real, settings)
    made = goals(found, config.goals, version_name(0), version_name(config.run.num_iterations))
    agreement, _ = label_agreement(real, judged)
    tables = [goals_sheet(made), like_with_like_sheet(found, same, cost), agreement_sheet(agreement)]
    picture = None
    if len(config.sft_sizes) > 1:
        tables.append(sizes_sheet(_evaluate_sizes(study, config, own_judged, settings), config.sft_sizes))
        (folder / "figures").mkdir()
        picture = save(draw_sizes(tables[-1]), folder / "figures", "sft_sizes", "Diversity by SFT sessions")
    write_json(folder / GOALS, [goal.model_dump(mode="json") for goal in made])
    write_evaluation(
        folder,
        found,
        inputs,
        transcripts=3,
        real_transcripts=2,
        seed=config.run.seed,
        own_sheets=tables,
        own_sections=_sections(config.run.simulator.model, made, tables, picture),
    )


def _simulators(study: RunDirectory, config: StudyConfig, inputs: Inputs) -> list[Simulator]:
    """Returns the untuned model, every version with its discriminator, and the aggregate of the versions."""
    judged = {s.name: s.discriminator for s in inputs.simulators}
    names = [UNTUNED, *judged]
    own = {n: Simulator(name=n, sessions=read_labelled(study, n), discriminator=judged.get(n)) for n in names}
    pooled = [aggregate(AGGREGATE, own, judged)] if len(judged) > 1 else []
    return [*own.values(), *pooled]


def _only(simulator: Simulator, chatbots: Sequence[str]) -> Simulator:
    return simulator.model_copy(update={"sessions": tuple(s for s in simulator.sessions if s.chatbot in chatbots)})


def _evaluate_sizes(
    study: RunDirectory, config: StudyConfig, real: Sequence[Session], settings: EvaluationConfig
) -> Evaluation:
    """Returns the evaluation of the base simulators of all sizes, each in the same contexts."""
    sizes = [(size, read_labelled(study, size_name(size))) for size in config.sft_sizes[:-1]]
    shared = {(s.model_extra or {})["context_id"] for s in sizes[0][1]}
    base = [s for s in read_labelled(study, version_name(0)) if (s.model_extra or {})["context_id"] in shared]
    everyone = [*sizes, (config.sft_sizes[-1], tuple(base))]
    return evaluate([Simulator(name=size_name(size), sessions=s) for size, s in everyone], real, settings)


def draw_sizes(sheet: Sheet) -> Figure:
    """Returns the figures of Table 1 by the number of SFT sessions, real users' as a line."""
    figure, axes = new_figure(9.0, 2.8, 1, len(TABLE_1))
    place = {name: i for i, name in enumerate(sheet.columns)}
    for ax, key in zip(axes, TABLE_1, strict=True):
        theirs, *rows = ((row[place["sft_sessions"]], row[place[key]]) for row in sheet.rows)
        sizes = []
        for size, found in rows:
            if not isinstance(size, int) or not isinstance(found, Estimate) or found.value is None:
                continue
            sizes.append(size)
            known = found.low is not None and found.high is not None
            bars = [[found.value - (found.low or 0)], [(found.high or 0) - found.value]] if known else None
            ax.errorbar(size, found.value, yerr=bars, color=COLOURS[0], marker="o", capsize=2, lw=1)
        if isinstance(theirs[1], Estimate) and theirs[1].value is not None:
            ax.axhline(theirs[1].value, color="#222222", lw=1, ls="--")
        ax.set_xscale("log", base=2)
        ax.set_xticks(sizes, [str(size) for size in sizes])
        ax.set_title(LINGUISTIC_NAMES[key], fontsize=10)
    figure.supxlabel("SFT sessions (dashed: real users)", fontsize=9)
    return figure


def _sections(model: str, made: Sequence[Goal], tables: Sequence[Sheet], picture: Picture | None) -> list[Section]:
    num_met = sum(goal.met for goal in made)
    readings = {
        "goals": ("What the study was asked to show", f"{num_met} of {len(made)} goals are met."),
        "like_with_like": (
            "Against the truth, and like with like",
            "The first row is the real sessions as the judges read them, against the truth: no simulator can do better "
            "there but by chance. Excess is the distance of user actions (Eq. 7) above its lowest value.",
        ),
        "judge_agreement": (
            "How far the judges can be trusted",
            "Cohen's kappa of the judges of simulated sessions with the truth, on the real sessions.",
        ),
        "sft_sizes": (
            "The amount of SFT data (Table 1)",
            "Base simulators of other sizes in the same contexts; the first row's distances are those of one half of "
            "the real sessions to the other.",
        ),
    }
    base = POPULATION_LLAMA if model == "population-llama" else f"The base model of every simulator is {model}."
    sections = [section("about", "What this is", ABOUT.format(base=base))]
    for sheet in tables:
        title, reading = readings[sheet.name]
        sections.append(section(sheet.name, title, reading, sheet, picture if sheet.name == "sft_sizes" else None))
    return sections


def print_study(study: RunDirectory, console: Console | None = None) -> None:
    """Prints what was asked and what came, and where the report lies."""
    console = console or Console()
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    for column in ("goal", "asked", "value", ""):
        table.add_column(column, justify="right" if column == "value" else "left", no_wrap=True)
    for row in json.loads(study.path(f"report/{GOALS}").read_text()):
        value = "-" if row["value"] is None else f"{row['value']:.3f}"
        table.add_row(row["name"], row["asked"], value, "met" if row["met"] else "missed")
    console.print(table)
    console.print(f"{study.path('report/report.html')}: every table and figure", highlight=False, soft_wrap=True)
    own = sum(study.timings().values())
    run = sum(RunDirectory(study.path("adversarial")).timings().values())
    sizes = sum(
        sum(RunDirectory(path).timings().values()) for path in (*study.root.glob("sizes/*"), study.path("measured"))
    )
    console.print(f"wall time of the phases: {(own + run + sizes) / 60:.1f} min", highlight=False)
