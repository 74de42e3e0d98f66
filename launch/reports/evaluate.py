"""The command ``rlenv evaluate``: compares simulators with real sessions in every table and figure of the paper."""

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
            help="a run directory (all its simulator versions) or a sessions file of one simulator; NAME= names it",
        ),
    ],
    out: Annotated[Path, typer.Option(help="folder to write the evaluation to")],
    real: Annotated[
        list[Path] | None,
        typer.Option(
            help="file of real sessions; may be repeated; by default the run's own, if there is exactly one run"
        ),
    ] = None,
    aggregate: Annotated[
        list[str] | None, typer.Option(help="pool simulators under a name: NAME=one,two, or NAME alone for all")
    ] = None,
    ab: Annotated[
        Path | None, typer.Option(help="YAML file of A/B tests: a list of {name, control, treatment}")
    ] = None,
    control: Annotated[str | None, typer.Option(help="A/B test without a file: the control chatbot")] = None,
    treatment: Annotated[
        list[str] | None, typer.Option(help="chatbot to test against --control; may be repeated")
    ] = None,
    effect: Annotated[
        float, typer.Option(help="rise of the issue rate that an A/B test should detect; gives the sample sizes")
    ] = 0.01,
    max_turns: Annotated[
        int | None,
        typer.Option(
            help="user messages per session for diversity measures, 0 for all; by default the runs' smallest max_turns"
        ),
    ] = None,
    taxonomy: Annotated[
        Path | None, typer.Option(help="YAML file of actions and issues; by default the package's")
    ] = None,
    label_map: Annotated[
        str | None,
        typer.Option("--map", help="maps the labels' names to the taxonomy's: a YAML file, dbdc3 or annomi"),
    ] = None,
    all_users: Annotated[bool, typer.Option(help="also use sessions of users that the runs trained on")] = False,
    allow_mixed: Annotated[
        bool, typer.Option(help="accept a file with sessions of different simulators, and pool them")
    ] = False,
    overwrite: Annotated[bool, typer.Option(help="replace the evaluation in --out")] = False,
    transcripts: Annotated[int, typer.Option(min=0, help="simulated conversations to show per simulator")] = 3,
    real_transcripts: Annotated[int, typer.Option(min=0, help="real conversations to show")] = 0,
    embeddings: Annotated[
        bool,
        typer.Option(
            help="make Figure 3 (t-SNE of embedded sessions), with --embed-url or else with MiniLM if installed"
        ),
    ] = True,
    embed_url: Annotated[
        str | None, typer.Option(help="Figure 3: root URL of an OpenAI-compatible embedding API")
    ] = None,
    embed_model: Annotated[
        str | None, typer.Option(help="the model's name at --embed-url, such as text-embedding-3-large")
    ] = None,
    allow_external: Annotated[
        bool, typer.Option(help="let conversations go to an --embed-url that is not this machine")
    ] = False,
    embed_key_env: Annotated[
        str | None, typer.Option(help="name of the environment variable with the API key of --embed-url")
    ] = None,
    embed_cache: Annotated[
        Path | None, typer.Option(help="folder of cached vectors; by default beside the sessions")
    ] = None,
    embed_sessions: Annotated[int, typer.Option(help="maximum number of sessions to embed per simulator")] = 50,
    perplexity: Annotated[float, typer.Option(help="perplexity of Figure 3's t-SNE")] = 30.0,
    seed: Annotated[int, typer.Option(help="seed of intervals, random choices and splits")] = 0,
) -> None:
    """Compare simulators with real sessions; writes metrics.json, tables, figures and a report to one folder.

    The report shows the text of a few simulated conversations, and of real ones only with --real-transcripts.
    """
    from launch.reports.embedding import EmbeddingOptions, make_embeddings, vector_folder
    from launch.reports.inputs import PART, named_path, read_ab_tests, read_inputs
    from launch.reports.output import check_free, write_evaluation
    from launch.run.contents import run_settings
    from launch.tracking.tracker import log_report
    from rlenv.core.files import new_folder
    from rlenv.core.taxonomy import load_taxonomy
    from rlenv.data.labels import load_label_map
    from rlenv.evaluation.embeddings.sessions import EmbeddingConfig
    from rlenv.evaluation.subjects import check_subjects
    from rlenv.evaluation.suite import EvaluationConfig
    from rlenv.evaluation.suite import evaluate as make_tables

    check_free(out, overwrite)
    categories = load_taxonomy(taxonomy)
    tests = read_ab_tests(ab, control, treatment or [])
    mapped = load_label_map(label_map) if label_map else {}
    inputs = read_inputs(sources, real or [], aggregate or [], part=None if all_users else PART, label_map=mapped)
    config = EvaluationConfig(
        seed=seed,
        max_turns=inputs.max_turns if max_turns is None else max_turns or None,
        effect=effect,
        allow_mixed=allow_mixed,
    )
    check_subjects(inputs.simulators, inputs.real, allow_mixed)  # fails before minutes are spent on embedding
    cache = embed_cache or vector_folder(named_path(sources[0])[1], out)
    options = EmbeddingOptions(cache, embeddings, embed_url, embed_model, embed_key_env, allow_external)
    figure3 = EmbeddingConfig(num_sessions=embed_sessions, perplexity=perplexity, seed=seed)
    evaluation = make_tables(
        inputs.simulators,
        inputs.real,
        config,
        embeddings=make_embeddings(inputs.simulators, inputs.real, options, figure3),
        ab_tests=tests,
        taxonomy=categories,
        notes=inputs.notes,
    )
    check_free(out, overwrite)  # again: minutes have passed
    with new_folder(out, replace=overwrite) as folder:
        num_tables, num_pictures = write_evaluation(
            folder, evaluation, inputs, transcripts=transcripts, real_transcripts=real_transcripts, seed=seed
        )
    for source in sources:
        if ((root := named_path(source)[1]) / "config.yaml").is_file():
            log_report(root, run_settings(root), out)
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
