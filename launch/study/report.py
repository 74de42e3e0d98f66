"""The report of a study: the report of ``rlenv evaluate`` with the study's own sections first, and a short table.

report/report.html, metrics.json, tables/*.csv, figures/*.png     as written by rlenv evaluate
report/goals.json                                                 each goal, its value and whether it is met
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
    "All data here are synthetic. The real users are those of the reference population, whose true actions and issues "
    "are known. {base} Without fine-tuning, it stands in for the zero-shot models of the paper. Real sessions have "
    "their true labels; simulated sessions are labelled by judges that see only the text. The tables below show how "
    "much of a difference that makes."
)
POPULATION_LLAMA = (
    "The base model of every simulator was pretrained on sessions of other users of the population, whose chatbots "
    "failed far more often than those compared here. It knows how users talk, but not how often each chatbot fails. It "
    "is therefore closer to the real users than the paper's base model is to its own."
)


def write_study_report(study: RunDirectory, config: StudyConfig, real: Sequence[Session]) -> Path:
    """Returns the folder of the report, which compares every simulator with the real sessions.

    Args:
        study: the study's directory, with all sessions labelled.
        config: the study's configuration.
        real: the real sessions with all chatbots and treatments, with their true labels.
    """

    def make(folder: Path) -> None:
        folder.mkdir()
        _write(folder, study, config, real)

    return study.once("report", make)


def _write(folder: Path, study: RunDirectory, config: StudyConfig, real: Sequence[Session]) -> None:
    roster = tuple(roster_of(config))
    settings = EvaluationConfig(seed=config.run.seed, max_turns=config.run.env.max_turns)
    inputs = read_inputs([adversarial_config(config).out_dir], [])
    simulators = _simulators(study, config, inputs)
    inputs.simulators = [_with_chatbots(s, roster) for s in simulators]
    inputs.real = [s for s in real if s.chatbot in roster]
    real_judged = read_labelled(study, JUDGED)
    roster_judged = [s for s in real_judged if s.chatbot in roster]

    figure3 = make_embeddings(
        inputs.simulators, inputs.real, EmbeddingOptions(cache=study.path("embeddings")),
        EmbeddingConfig(seed=config.run.seed),
    )  # fmt: skip
    evaluation = evaluate(inputs.simulators, inputs.real, settings, embeddings=figure3, notes=inputs.notes)
    tests = [AbTest(name=name, control=t.control, treatment=name) for name, t in config.treatments.items()]
    if tests:
        evaluation = evaluation.model_copy(update={"ab": ab_table(tests, simulators, real, effect=settings.effect)})
    without_discriminator = [s.model_copy(update={"discriminator": None}) for s in inputs.simulators]
    against_judged = evaluate(without_discriminator, roster_judged, settings)
    judged_real = evaluate([Simulator(name="real, judged", sessions=tuple(roster_judged))], inputs.real, settings)
    goal_list = goals(evaluation, config.goals, version_name(0), version_name(config.run.num_iterations))
    agreement, _ = label_agreement(real, real_judged)
    tables = [
        goals_sheet(goal_list),
        like_with_like_sheet(evaluation, against_judged, judged_real),
        agreement_sheet(agreement),
    ]
    picture = None
    if len(config.sft_sizes) > 1:
        tables.append(sizes_sheet(_evaluate_sizes(study, config, roster_judged, settings), config.sft_sizes))
        (folder / "figures").mkdir()
        picture = save(draw_sizes(tables[-1]), folder / "figures", "sft_sizes", "Diversity by SFT sessions")
    write_json(folder / GOALS, [goal.model_dump(mode="json") for goal in goal_list])
    write_evaluation(
        folder,
        evaluation,
        inputs,
        transcripts=3,
        real_transcripts=2,
        seed=config.run.seed,
        own_sheets=tables,
        own_sections=_sections(config.run.simulator.model, goal_list, tables, picture),
    )


def _simulators(study: RunDirectory, config: StudyConfig, inputs: Inputs) -> list[Simulator]:
    """Returns the untuned model, every version with its discriminator, and the aggregate of the versions."""
    versions = {s.name: s.discriminator for s in inputs.simulators}
    names = [UNTUNED, *versions]
    simulators = {n: Simulator(name=n, sessions=read_labelled(study, n), discriminator=versions.get(n)) for n in names}
    pooled = [aggregate(AGGREGATE, simulators, versions)] if len(versions) > 1 else []
    return [*simulators.values(), *pooled]


def _with_chatbots(simulator: Simulator, chatbots: Sequence[str]) -> Simulator:
    return simulator.model_copy(update={"sessions": tuple(s for s in simulator.sessions if s.chatbot in chatbots)})


def _evaluate_sizes(
    study: RunDirectory, config: StudyConfig, real: Sequence[Session], settings: EvaluationConfig
) -> Evaluation:
    """Returns the evaluation of the base simulators of all SFT sizes, in the same contexts."""
    sizes = [(size, read_labelled(study, size_name(size))) for size in config.sft_sizes[:-1]]
    shared = {(s.model_extra or {})["context_id"] for s in sizes[0][1]}
    base = [s for s in read_labelled(study, version_name(0)) if (s.model_extra or {})["context_id"] in shared]
    simulators = [
        Simulator(name=size_name(size), sessions=s) for size, s in [*sizes, (config.sft_sizes[-1], tuple(base))]
    ]
    return evaluate(simulators, real, settings)


def draw_sizes(sheet: Sheet) -> Figure:
    """Returns a plot of Table 1's figures against the number of SFT sessions, with real users as a dashed line."""
    figure, axes = new_figure(9.0, 2.8, 1, len(TABLE_1))
    column = {name: i for i, name in enumerate(sheet.columns)}
    for ax, key in zip(axes, TABLE_1, strict=True):
        (_, real), *rows = ((row[column["sft_sessions"]], row[column[key]]) for row in sheet.rows)
        sizes = []
        for size, mean in rows:
            if not isinstance(size, int) or not isinstance(mean, Estimate) or mean.value is None:
                continue
            sizes.append(size)
            has_interval = mean.low is not None and mean.high is not None
            bars = [[mean.value - (mean.low or 0)], [(mean.high or 0) - mean.value]] if has_interval else None
            ax.errorbar(size, mean.value, yerr=bars, color=COLOURS[0], marker="o", capsize=2, lw=1)
        if isinstance(real, Estimate) and real.value is not None:
            ax.axhline(real.value, color="#222222", lw=1, ls="--")
        ax.set_xscale("log", base=2)
        ax.set_xticks(sizes, [str(size) for size in sizes])
        ax.set_title(LINGUISTIC_NAMES[key], fontsize=10)
    figure.supxlabel("SFT sessions (dashed: real users)", fontsize=9)
    return figure


def _sections(model: str, goals: Sequence[Goal], tables: Sequence[Sheet], picture: Picture | None) -> list[Section]:
    num_met = sum(goal.met for goal in goals)
    texts = {
        "goals": ("Goals of the study", f"{num_met} of {len(goals)} goals are met."),
        "like_with_like": (
            "Comparison with true labels and with the judges' labels",
            "Columns ending in _truth compare with the true labels of the real sessions, columns ending in _judged "
            "with the labels that the judges of simulated sessions give to them. The first row is the real sessions "
            "as the judges label them: no simulator can beat it against the truth, except by chance. Excess is the "
            "distance of user actions (Eq. 7) above its lowest possible value.",
        ),
        "judge_agreement": (
            "Agreement of the judges with the truth",
            "Cohen's kappa between the judges of simulated sessions and the true labels, on the real sessions.",
        ),
        "sft_sizes": (
            "Amount of SFT data (Table 1)",
            "Base simulators fine-tuned on other numbers of sessions, in the same contexts. The first row has the "
            "distances between two halves of the real sessions.",
        ),
    }
    base = POPULATION_LLAMA if model == "population-llama" else f"The base model of every simulator is {model}."
    sections = [section("about", "About this study", ABOUT.format(base=base))]
    for sheet in tables:
        title, text = texts[sheet.name]
        sections.append(section(sheet.name, title, text, sheet, picture if sheet.name == "sft_sizes" else None))
    return sections


def print_study(study: RunDirectory, console: Console | None = None) -> None:
    """Prints the goals with their values, and where the report is."""
    console = console or Console()
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1))
    for column in ("goal", "target", "value", ""):
        table.add_column(column, justify="right" if column == "value" else "left", no_wrap=True)
    for row in json.loads(study.path(f"report/{GOALS}").read_text()):
        value = "-" if row["value"] is None else f"{row['value']:.3f}"
        table.add_row(row["name"], row["asked"], value, "met" if row["met"] else "missed")
    console.print(table)
    console.print(f"{study.path('report/report.html')}: every table and figure", highlight=False, soft_wrap=True)
    folders = (study.root, study.path("adversarial"), study.path("measured"), *study.root.glob("sizes/*"))
    seconds = sum(sum(RunDirectory(folder).timings().values()) for folder in folders)
    console.print(f"wall time of the phases: {seconds / 60:.1f} min", highlight=False)
