"""The commands for data: ``rlenv import``, ``rlenv validate``, ``rlenv summarize``.

Each reads all its input and then writes its file, whole or not at all. Every problem is printed to stderr at once, by
place, id and count and never with message text, and the exit code is 1.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from launch.serving.language_models import (
    AllowExternal,
    BaseUrl,
    Cache,
    Concurrency,
    EngineModel,
    KeyEnv,
    ModelChoice,
    ModelName,
    SamplingSeed,
    TimeoutS,
    cache_folder,
    language_model,
)
from rlenv.core.errors import ConfigError, DataError, Problem, RlenvError
from rlenv.core.types import Session
from rlenv.speakers.openai_client import TIMEOUT_S

CONTEXT_FIELDS = ("profile", "situation", "long_term_context", "previous_summaries", "current_summary")


class Form(StrEnum):
    """The formats that ``rlenv import`` reads."""

    esconv = "esconv"
    annomi = "annomi"
    jsonl = "jsonl"
    chat = "chat"


CHAT_FORMS = (Form.jsonl, Form.chat)
"""Both names of the form that has names of its own; jsonl is the former."""


def import_data(
    form: Annotated[
        Form,
        typer.Argument(
            help="format of IN: that of ESConv or AnnoMI, or chat: sessions files and the usual forms of other tools "
            "(ShareGPT, OpenAI messages, prompt and completion; JSON, CSV, Parquet, saved data sets); jsonl is the same"
        ),
    ],
    source: Annotated[Path, typer.Argument(metavar="IN", help="file to import, plain or gzipped, or a folder")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="sessions file to write; gzipped if it ends in .gz")],
    merge_neighbours: Annotated[bool, typer.Option(help="join consecutive messages of one speaker")] = False,
    drop_unknown: Annotated[bool, typer.Option(help="leave out fields that rlenv does not know")] = False,
    skip_bad: Annotated[bool, typer.Option(help="leave out sessions with problems, and list them")] = False,
    role: Annotated[list[str] | None, typer.Option(help="chat: maps a role's name, as seeker=user")] = None,
    drop_role: Annotated[
        list[str] | None,
        typer.Option(help="chat: leave out messages of this role, as of system and tool messages; may be repeated"),
    ] = None,
    mapping: Annotated[
        list[str] | None,
        typer.Option(
            "--map",
            help="maps a field's name, as utterance=content (chat), or, without =, the labels' names by a YAML "
            "file, dbdc3 or annomi; may be repeated",
        ),
    ] = None,
) -> None:
    """Convert conversations of another format to a sessions file.

    Consecutive messages of one speaker stay separate unless --merge-neighbours is given. Commands that read OUT join
    them when needed, and the file keeps the original messages.
    """
    from rlenv.data import importers
    from rlenv.data.labels import load_label_map, with_mapped_labels
    from rlenv.data.sessions import write_sessions

    with user_errors():
        options = importers.ImportOptions(
            merge_neighbours=merge_neighbours, drop_unknown=drop_unknown, skip_bad=skip_bad
        )
        roles = _roles(role or [], form)
        names = dict(pair.partition("=")[::2] for pair in mapping or [] if "=" in pair)
        if "" in (mapping or []) or "" in (*names, *names.values()):
            raise ConfigError("--map: expected OLD=NEW or the name of a label map, got an empty name")
        label_maps = [load_label_map(name) for name in mapping or [] if "=" not in name]
        if (drop_role or names) and form not in CHAT_FORMS:
            raise ConfigError("--drop-role and --map OLD=NEW are for chat only; the names of the other forms are fixed")
        if form is Form.esconv:
            sessions, report = importers.import_esconv(source, options)
        elif form is Form.annomi:
            sessions, report = importers.import_annomi(source, options)
        else:
            chat = importers.ChatOptions(roles, drop_role or (), names)
            sessions, report = importers.import_chat(source, options, chat)
        for label_map in label_maps:
            sessions = [with_mapped_labels(session, label_map) for session in sessions]
        write_sessions(out, sessions)
    if report.problems:
        _show_problems(report.problems, f"left out of {escape(str(out))}")
    rows = {
        "sessions": report.num_sessions,
        "users": report.num_users,
        "messages": report.num_messages,
        "messages after the same speaker": report.num_neighbours,
        "  of them joined": report.num_merged,
        **_counted("kept, unknown to rlenv: ", report.kept),
        **_counted("dropped: ", report.dropped),
        **report.changed,
    }
    show_counts(str(out), rows)


def validate(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="sessions files, plain or gzipped")],
    neighbours: Annotated[
        str, typer.Option(help="'merge' accepts consecutive messages of one speaker, 'reject' does not")
    ] = ("merge"),
    taxonomy: Annotated[
        Path | None, typer.Option(help="YAML file of actions and issues; by default the package's")
    ] = None,
) -> None:
    """Check sessions files together, and print a summary of each.

    Labels outside the taxonomy are no error: they are listed, with the messages that carry them.
    """
    from rlenv.core.taxonomy import load_taxonomy
    from rlenv.data.labels import foreign_label_notes, foreign_labels
    from rlenv.data.sessions import stream_sessions

    with user_errors("not OK"):
        categories = load_taxonomy(taxonomy)
        if neighbours not in ("merge", "reject"):
            raise ConfigError(f"--neighbours is {neighbours!r}; use merge or reject")
        for _ in stream_sessions(files, neighbours="reject" if neighbours == "reject" else "keep"):
            pass
        num_empty = 0
        for file in files:
            rows, empty = _contents(stream_sessions(file, neighbours="keep"))
            num_empty += empty
            show_counts(str(file), rows)
            for note in foreign_label_notes(
                foreign_labels(stream_sessions(file, neighbours="keep"), categories), categories
            ):
                Console().print(f"- {note}", highlight=False, markup=False, soft_wrap=True)
    if num_empty:
        Console().print(
            f"[bold yellow]warning: {num_empty:,} sessions have no messages; other commands leave them out[/]",
            highlight=False,
            soft_wrap=True,
        )
    Console().print("[bold green]OK[/]")


def summarize(
    source: Annotated[
        Path, typer.Argument(metavar="IN", help="sessions file, with each user's sessions in order of time")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="sessions file to write; may be IN")],
    base_url: BaseUrl = None,
    model: ModelName = None,
    key_env: KeyEnv = None,
    allow_external: AllowExternal = False,
    timeout_s: TimeoutS = TIMEOUT_S,
    engine_model: EngineModel = None,
    previous: Annotated[int, typer.Option(help="maximum number of earlier summaries per session (paper: 3 to 5)")] = 5,
    recent_sessions: Annotated[
        int, typer.Option(help="maximum number of earlier sessions to add with all messages")
    ] = 1,
    input_tokens: Annotated[int, typer.Option(help="longest transcript in the prompt, in tokens")] = 3000,
    max_tokens: Annotated[int, typer.Option(help="longest summary, in tokens")] = 300,
    concurrency: Concurrency = 8,
    seed: SamplingSeed = 0,
    cache: Cache = None,
) -> None:
    """Fill in missing summaries with a language model: of sessions, of earlier sessions and of the long-term context.

    Text written by people is kept. Answers are cached, so the same command resumes after a failure and pays for no
    answer twice.
    """
    with user_errors():
        from launch.run.progress import counting
        from rlenv.core import aio
        from rlenv.data.sessions import read_sessions, write_sessions
        from rlenv.data.summaries import SummaryConfig
        from rlenv.data.summaries import summarize as write_summaries
        from rlenv.speakers.completers import CachedCompleter

        config = SummaryConfig(
            num_previous=previous,
            num_recent_sessions=recent_sessions,
            input_tokens=input_tokens,
            max_tokens=max_tokens,
            concurrency=concurrency,
            seed=seed,
        )
        sessions = read_sessions(source, neighbours="keep")
        folder, choice = (
            cache_folder(cache, out),
            ModelChoice(
                base_url=base_url,
                model=model,
                api_key_env=key_env,
                engine_model=engine_model,
                allow_external=allow_external,
                timeout_s=timeout_s,
            ),
        )
        room = input_tokens + max_tokens + 512
        with (
            language_model(choice, num_positions=room, log_dir=folder) as (completer, count_tokens),
            counting("summaries", len(sessions)) as advance,
        ):
            cached = CachedCompleter(completer, folder)
            done, report = aio.run(write_summaries(sessions, cached, config, count_tokens, advance))
        write_sessions(out, done)
    rows = {
        "sessions": report.num_sessions,
        "users": report.num_users,
        "answers requested": report.num_asked,
        "answers from the cache": report.num_cached,
        "current summaries written": report.num_current,
        "sessions given earlier summaries": report.num_previous,
        "long-term contexts written": report.num_long_term,
        "sessions given earlier messages": report.num_recent,
        "fields written by people, kept": report.num_kept,
        "sessions without text": report.num_empty,
        "inputs cut to --input-tokens": report.num_cut,
    }
    show_counts(str(out), rows)


def register(app: typer.Typer) -> None:
    """Adds the commands to an app."""
    app.command("import")(import_data)
    app.command("validate")(validate)
    app.command("summarize")(summarize)


@contextmanager
def user_errors(outcome: str = "nothing was written") -> Iterator[None]:
    """Prints an error that the user can fix to stderr and exits with code 1; other errors pass, since they are bugs."""
    try:
        yield
    except DataError as error:
        _show_problems(error.problems, outcome)
        raise typer.Exit(1) from None
    except RlenvError as error:
        _stderr().print(f"[bold red]error[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None


def _show_problems(problems: tuple[Problem, ...], outcome: str) -> None:
    num_sessions = len({(p.where.rpartition(":")[0], p.session_id or p.where) for p in problems})
    title = f"{len(problems)} problem{'s' * (len(problems) > 1)} in {num_sessions} place{'s' * (num_sessions > 1)}"
    _stderr().print(f"[bold red]{title}[/] ({outcome})", highlight=False)
    _stderr().print(escape(str(DataError(problems))), highlight=False, soft_wrap=True)


def _contents(sessions: Iterable[Session]) -> tuple[dict[str, int | str], int]:
    """Returns a summary of a file's sessions, and how many of them have no messages."""
    from rlenv.data.importers.report import near_known, unknown_fields
    from rlenv.data.sessions import num_neighbours, session_dict

    counts, openers, unknown, lacking = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    users = set()
    for session in sessions:
        users.add(session.user_id)
        openers[session.messages[0].role if session.messages else "nobody"] += 1
        unknown += unknown_fields(session_dict(session))
        lacking.update(name for name in CONTEXT_FIELDS if not getattr(session.context, name))
        counts["sessions"] += 1
        counts["empty"] += not session.messages
        counts["messages"] += len(session.messages)
        counts["user"] += sum(message.role == "user" for message in session.messages)
        counts["textless"] += sum(not message.content.strip() for message in session.messages)
        counts["neighbours"] += num_neighbours(session.messages)
        counts["contextless"] += not session.context.model_dump(exclude_defaults=True)
        counts["generated"] += bool(session.context.generated)
    named = {f"{path} (did you mean {near}?)" if (near := near_known(path)) else path: n for path, n in unknown.items()}
    rows: dict[str, int | str] = {
        "sessions": counts["sessions"],
        "  without messages": counts["empty"],
        "users": len(users),
        "messages": counts["messages"],
        "  of users": counts["user"],
        "  without text": counts["textless"],
        "messages after the same speaker": counts["neighbours"],
        **{f"opened by {who}": n for who, n in sorted(openers.items())},
        "without any context": counts["contextless"],
        **{f"  without {name}": n for name, n in sorted(lacking.items(), key=lambda i: CONTEXT_FIELDS.index(i[0]))},
        "with generated context": counts["generated"],
        **_counted("unknown field ", named),
    }
    return rows, counts["empty"]


def _roles(pairs: list[str], form: Form) -> dict[str, str]:
    if pairs and form not in CHAT_FORMS:
        raise ConfigError(f"--role is for chat; the role names of {form} are fixed")
    roles = dict(pair.partition("=")[::2] for pair in pairs)
    if bad := [name for name, role in roles.items() if not name or role not in ("user", "assistant")]:
        raise ConfigError(f"--role {bad[0]}={roles[bad[0]]}: expected NAME=user or NAME=assistant")
    return roles


def _counted(label: str, counts: Mapping[str, int]) -> dict[str, int]:
    return {f"{label}{name}": n for name, n in sorted(counts.items(), key=lambda item: (-item[1], item[0]))}


def show_counts(title: str, rows: Mapping[str, int | str]) -> None:
    """Prints a table of names and counts under a title."""
    table = Table(show_header=False, box=None)
    table.add_column(overflow="fold")
    table.add_column(justify="right", no_wrap=True)
    for name, value in rows.items():
        table.add_row(escape(name), f"{value:,}" if isinstance(value, int) else escape(str(value)))
    console = Console()
    console.print(f"[bold]{escape(title)}[/]", highlight=False, soft_wrap=True)
    console.print(table)


def _stderr() -> Console:
    return Console(file=sys.stderr)
