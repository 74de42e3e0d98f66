"""The commands for labels: ``rlenv taxonomy``, ``rlenv annotate``, ``rlenv agreement``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from launch.cli.data import show_counts, user_errors
from launch.serving.judges import JudgeConfig, JudgeName, What, serve_judge
from launch.serving.language_models import (
    AllowExternal,
    BaseUrl,
    Cache,
    Concurrency,
    EngineModel,
    KeyEnv,
    ModelName,
    SamplingSeed,
    TimeoutS,
    cache_folder,
)
from rlenv.core.errors import ConfigError
from rlenv.speakers.openai_client import TIMEOUT_S


def taxonomy(
    file: Annotated[
        Path | None, typer.Argument(help="your own taxonomy to check and print; by default the package's")
    ] = None,
    copy_to: Annotated[Path | None, typer.Option(help="file to copy the taxonomy to, for editing")] = None,
) -> None:
    """Print the categories of user actions and chatbot issues, or copy them to a file of your own."""
    from rlenv.core.files import write_atomic
    from rlenv.core.taxonomy import DEFAULT_FILE, GROUP_NAMES, load_taxonomy

    with user_errors():
        categories = load_taxonomy(file)
        if copy_to is not None:
            if copy_to.exists():
                raise ConfigError(f"--copy-to {copy_to}: this file exists; choose a new one")
            write_atomic(copy_to, [(file or DEFAULT_FILE).read_bytes()])
    for kind in ("actions", "issues"):
        rows = getattr(categories, kind)
        table = Table(title=f"{len(rows)} {kind}", title_justify="left", box=None)
        for column in ("group", "id", "name", "description"):
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(GROUP_NAMES[row.group], *map(escape, (row.id, row.name, row.description)))
        Console().print(table)


def annotate(
    source: Annotated[Path, typer.Argument(metavar="IN", help="sessions file")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="sessions file to write; may be IN")],
    judge: Annotated[JudgeName, typer.Option(help="the judge that labels")],
    what: Annotated[What | None, typer.Option(help="what to label; by default all that the judge can label")] = None,
    taxonomy: Annotated[Path | None, typer.Option(help="file of your own categories (see rlenv taxonomy)")] = None,
    base_url: BaseUrl = None,
    model: ModelName = None,
    key_env: KeyEnv = None,
    allow_external: AllowExternal = False,
    timeout_s: TimeoutS = TIMEOUT_S,
    reasoning_effort: Annotated[str | None, typer.Option(help="endpoint: effort of a reasoning model, as low")] = None,
    engine_model: EngineModel = None,
    input_tokens: Annotated[int, typer.Option(help="engine: longest prompt, in tokens")] = 8000,
    max_tokens: Annotated[int, typer.Option(help="longest reply of a language model, in tokens")] = 2048,
    concurrency: Concurrency = 8,
    seed: SamplingSeed = 0,
    replace: Annotated[bool, typer.Option(help="also replace labels given by people")] = False,
    cache: Cache = None,
) -> None:
    """Label the users' actions and the chatbots' issues. Labels given by people are kept.

    A language model's answers are cached, so the same command resumes after a failure and pays for no answer twice.
    """
    with user_errors():
        from launch.run.progress import counting
        from rlenv.core import aio
        from rlenv.data.sessions import read_sessions, write_sessions
        from rlenv.judges.annotate import judged, with_labels

        sessions = read_sessions(source, neighbours="keep")
        categories = None if taxonomy is None else str(taxonomy)
        chosen = JudgeConfig(
            base_url=base_url,
            model=model,
            api_key_env=key_env,
            engine_model=engine_model,
            reasoning_effort=reasoning_effort,
            allow_external=allow_external,
            timeout_s=timeout_s,
            judge=judge,
            concurrency=concurrency,
            taxonomy=categories,
        )
        served = serve_judge(
            chosen,
            cache_folder(cache, out),
            what,
            input_tokens=input_tokens,
            max_tokens=max_tokens,
            seed=seed,
        )
        with served as (named_judge, cached), counting("sessions", len(sessions)) as advance:
            annotations = aio.run(judged(sessions, named_judge, concurrency=concurrency, advance=advance))
        done, report = with_labels(sessions, annotations, named_judge, replace=replace)
        write_sessions(out, done)
    answers = {}
    if cached is not None:
        answers = {"answers requested": cached.num_asked, "answers from the cache": cached.num_cached}
    rows = {
        "sessions": report.num_sessions,
        "  too long, or no usable reply; unchanged": report.num_not_judged,
        "messages labelled": report.num_labelled,
        "  with a label": report.num_with_label,
        "  labelled before": report.num_replaced,
        "labels given by people, kept": report.num_kept,
        "labels that the taxonomy does not have, left out": report.num_unknown,
        **answers,
        **{f"  {label}": n for label, n in report.labels.most_common()},
    }
    show_counts(f"{out} by {named_judge.name}", rows)


def agreement(
    first: Annotated[Path, typer.Argument(metavar="FILE", help="labelled sessions")],
    second: Annotated[
        Path | None, typer.Argument(metavar="OTHER", help="the same sessions, labelled by others")
    ] = None,
    judge: Annotated[JudgeName | None, typer.Option(help="in place of OTHER: detectors or oracle")] = None,
    label_map: Annotated[
        str | None, typer.Option("--map", help="maps FILE's label names: dbdc3, annomi, or a YAML file")
    ] = None,
) -> None:
    """Print the agreement of two annotators: Cohen's kappa by category, over the messages that both labelled."""
    with user_errors("nothing was compared"):
        from rlenv.core import aio
        from rlenv.core.taxonomy import load_taxonomy
        from rlenv.data.labels import KINDS, load_label_map
        from rlenv.data.sessions import read_sessions
        from rlenv.judges.annotate import judged, with_labels
        from rlenv.judges.compare import label_agreement, self_agreement, without_common_labels

        if (second is None) == (judge is None):
            raise ConfigError("give a second labelled file, or a judge with --judge")
        if second is not None and second.exists() and first.samefile(second):
            raise ConfigError(f"{first} is compared with itself; give the same sessions, labelled by others")
        mapped = None if label_map is None else load_label_map(label_map)
        sessions = read_sessions(first, neighbours="keep")
        if second is not None:
            others, kinds = read_sessions(second, neighbours="keep"), KINDS
        else:
            assert judge is not None
            if judge not in (JudgeName.detectors, JudgeName.oracle):
                raise ConfigError(
                    f"--judge {judge}: annotate a copy of the file first (rlenv annotate), then compare both"
                )
            with serve_judge(JudgeConfig(judge=judge), cache=first) as (named_judge, _):
                others, _report = with_labels(
                    sessions, aio.run(judged(sessions, named_judge)), named_judge, replace=True
                )
                kinds = tuple(named_judge.kinds)
        foreign: list[str] = []
        if mapped is None:
            by_judge = second is None
            foreign = without_common_labels(sessions, others, kinds, load_taxonomy(), by_judge=by_judge)
        kinds = tuple(kind for kind in kinds if kind not in foreign)
        rows, messages = label_agreement(sessions, others, mapped, kinds)
        shared = f"the two share no name of {' or '.join(foreign)}; map FILE's labels to the other's with --map"
        if foreign and not rows:
            raise ConfigError(shared)
        if not rows:
            counts = " and ".join(f"{num} messages carry {kind}" for kind, num in messages.items())
            raise ConfigError(
                f"there are no labels to compare: {counts} in both; check that session ids are equal, or give --map"
            )
    for warning in [*self_agreement(sessions, others, kinds), *([shared] if foreign else [])]:
        Console().print(f"[bold red]{escape(warning)}[/]", highlight=False, soft_wrap=True)
    table = Table(box=None)
    for column in ("FILE's label", "compared with"):
        table.add_column(column)
    for column in ("messages", "FILE", "other", "both", "agree", "kappa"):
        table.add_column(column, justify="right")
    for row in rows:
        found = row.agreement
        table.add_row(
            *map(escape, (row.first, row.second)),
            *(f"{n:,}" for n in (found.num, found.num_first, found.num_second, row.num_both)),
            "-" if found.observed is None else f"{found.observed:.3f}",
            "-" if found.kappa is None else f"{found.kappa:.3f}",
        )
    Console().print(table)


def register(app: typer.Typer) -> None:
    """Adds the commands to an app."""
    app.command("taxonomy")(taxonomy)
    app.command("annotate")(annotate)
    app.command("agreement")(agreement)
