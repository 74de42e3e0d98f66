"""The command ``rlenv evaluate``: simulators against real sessions, every table and figure of the paper."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape


def evaluate(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="[NAME=]RUN_OR_SESSIONS...",
            help="run directories (all their simulator versions) and sessions files, one simulator each",
        ),
    ],
    out: Annotated[Path, typer.Option(help="directory to write")],
    real: Annotated[
        list[Path] | None, typer.Option(help="real sessions; none is the evaluation users of the one run given")
    ] = None,
    aggregate: Annotated[
        list[str] | None, typer.Option(help="pool simulators: NAME=one,two, or NAME alone for all")
    ] = None,
    ab: Annotated[Path | None, typer.Option(help="YAML list of {name, control, treatment}: A/B tests")] = None,
    control: Annotated[str | None, typer.Option(help="chatbot: the control of an A/B test")] = None,
    treatment: Annotated[list[str] | None, typer.Option(help="chatbot to test against --control")] = None,
    effect: Annotated[float, typer.Option(help="rise of an issue rate that A/B tests are planned for")] = 0.01,
    max_turns: Annotated[
        int | None, typer.Option(help="user messages read for diversity; default the runs' smallest cap, 0 is all")
    ] = None,
    taxonomy: Annotated[Path | None, typer.Option(help="YAML of actions and issues; default the package's")] = None,
    all_users: Annotated[bool, typer.Option(help="of runs, also the sessions of users that were trained on")] = False,
    allow_mixed: Annotated[bool, typer.Option(help="pool different simulators that stand in one file")] = False,
    overwrite: Annotated[bool, typer.Option(help="replace an evaluation that is in --out")] = False,
    transcripts: Annotated[int, typer.Option(min=0, help="simulated conversations to show, of each simulator")] = 3,
    real_transcripts: Annotated[int, typer.Option(min=0, help="conversations of real users to show")] = 0,
    embeddings: Annotated[bool, typer.Option(help="Figure 3, with MiniLM where it is installed")] = True,
    embed_url: Annotated[str | None, typer.Option(help="Figure 3: root of an OpenAI-compatible embedding API")] = None,
    embed_model: Annotated[str | None, typer.Option(help="the model's name there, as text-embedding-3-large")] = None,
    embed_key_env: Annotated[str | None, typer.Option(help="NAME of the variable that holds its key")] = None,
    embed_cache: Annotated[Path | None, typer.Option(help="folder of its vectors; default beside the sessions")] = None,
    embed_sessions: Annotated[int, typer.Option(help="sessions of each simulator that are embedded, at most")] = 50,
    perplexity: Annotated[float, typer.Option(help="of Figure 3's t-SNE")] = 30.0,
    seed: Annotated[int, typer.Option(help="of intervals, draws and splits")] = 0,
) -> None:
    """Compare simulators with real sessions: metrics.json, tables, figures and a report in one directory.

    The report shows the text of a few simulated conversations, and of real ones only with --real-transcripts.
    """
    from launch.reports.embedding import EmbeddingOptions, make_embeddings, vector_folder
    from launch.reports.inputs import PART, named_path, read_ab_tests, read_inputs
    from launch.reports.output import check_free, write_evaluation
    from rlenv.core.files import new_folder
    from rlenv.core.taxonomy import load_taxonomy
    from rlenv.evaluation.embeddings.sessions import EmbeddingConfig
    from rlenv.evaluation.subjects import check_subjects
    from rlenv.evaluation.suite import EvaluationConfig
    from rlenv.evaluation.suite import evaluate as make_tables

    check_free(out, overwrite)
    tests = read_ab_tests(ab, control, treatment or [])
    inputs = read_inputs(sources, real or [], aggregate or [], part=None if all_users else PART)
    config = EvaluationConfig(
        seed=seed,
        max_turns=inputs.max_turns if max_turns is None else max_turns or None,
        effect=effect,
        allow_mixed=allow_mixed,
    )
    check_subjects(inputs.simulators, inputs.real, allow_mixed)  # told before minutes are spent on embedding
    cache = embed_cache or vector_folder(named_path(sources[0])[1], out)
    options = EmbeddingOptions(cache, embeddings, embed_url, embed_model, embed_key_env)
    figure3 = EmbeddingConfig(num_sessions=embed_sessions, perplexity=perplexity, seed=seed)
    evaluation = make_tables(
        inputs.simulators,
        inputs.real,
        config,
        embeddings=make_embeddings(inputs.simulators, inputs.real, options, figure3),
        ab_tests=tests,
        taxonomy=load_taxonomy(taxonomy),
        notes=inputs.notes,
    )
    check_free(out, overwrite)  # again: minutes have passed
    with new_folder(out, replace=overwrite) as folder:
        num_tables, num_pictures = write_evaluation(
            folder, evaluation, inputs, transcripts=transcripts, real_transcripts=real_transcripts, seed=seed
        )
    console = Console()
    for warning in evaluation.warnings:
        console.print(f"[bold red]{escape(warning)}[/]", highlight=False, soft_wrap=True)
    for note in evaluation.notes:
        console.print(f"- {note}", highlight=False, markup=False, soft_wrap=True)
    console.print(
        f"{out}: report.html, metrics.json, {num_tables} tables, {num_pictures} figures",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def register(app: typer.Typer) -> None:
    """Adds the command to an app."""
    app.command("evaluate")(evaluate)
