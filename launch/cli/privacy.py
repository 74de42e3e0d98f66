"""The commands ``rlenv scrub``, ``rlenv plant``, ``rlenv card``, ``rlenv audit`` and ``rlenv forget``."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from launch.cli.data import show_counts, user_errors


def scrub(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="sessions file")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="sessions file to write; may be FILE")],
) -> None:
    """Replace names, phone numbers, addresses, URLs and identifiers in messages and contexts (English).

    The sessions are marked as scrubbed, which the setting data.scrub can require. Ids and fields that rlenv does not
    know stay as they are. Nothing finds everything: read a sample of the result.
    """
    with user_errors():
        from rlenv.data.importers.report import unknown_fields
        from rlenv.data.scrubbing import KINDS, MARK, Scrubber
        from rlenv.data.scrubbing import scrub as scrub_sessions
        from rlenv.data.sessions import read_sessions, session_dict, write_sessions

        sessions = read_sessions(source, neighbours="keep")
        scrubber = Scrubber()
        done, report = scrub_sessions(sessions, scrubber)
        write_sessions(out, done)
    unknown = sorted({name for session in sessions for name in unknown_fields(session_dict(session)) if name != MARK})
    show_counts(
        f"{out} by {scrubber.name}",
        {
            "sessions": report.num_sessions,
            "  changed": report.num_changed,
            **{f"[{kind.upper()}]": report.kinds[kind] for kind in KINDS},
            "sessions whose ids look like personal data; ids are not changed": report.num_ids,
            **{f"not scrubbed: the unknown field {name}": "-" for name in unknown},
        },
    )


def plant(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="sessions file")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="sessions file to write")],
    number: Annotated[int, typer.Option(min=1, help="how many sentences")] = 8,
    times: Annotated[int, typer.Option(min=1, help="sessions that each is planted in")] = 4,
    seed: Annotated[int, typer.Option(help="seed of the sentences and of the choice of sessions")] = 0,
) -> None:
    """Plant sentences that nobody said, to find out how much a simulator learns by heart.

    rlenv card says of a run that is trained on them how far it prefers them to others of the same form. Such a run is
    a test: its simulator says them to chatbots, too.
    """
    with user_errors():
        from rlenv.data.sessions import read_sessions, write_sessions
        from rlenv.evaluation.exposure import plant as plant_sentences

        write_sessions(out, plant_sentences(read_sessions(source, neighbours="keep"), number, times, seed))
    show_counts(str(out), {"sentences": number, "sessions with one": number * times})


def card(
    run: Annotated[Path, typer.Argument(help="run directory of rlenv adversarial")],
    version: Annotated[str | None, typer.Option(help="simulator version, such as it3; by default the newest")] = None,
    export: Annotated[
        Path | None, typer.Option(help="new folder to copy the adapter to, with this card as its README.md")
    ] = None,
) -> None:
    """Print the model card of a simulator: what it was trained on, its use and limits, and what the run found out."""
    from launch.privacy.cards import complete_card, export_adapter

    if export is None:
        typer.echo(complete_card(run, version)[1], nl=False)
        return
    name = export_adapter(run, export, version)
    typer.echo(f"{name}, with its card: {export}")


def audit(
    run: Annotated[Path, typer.Argument(help="run directory of rlenv adversarial")],
    unspoiled: Annotated[
        Path | None, typer.Option(help="folder to write the sessions to that the user did not spoil, by version")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Say which share of sessions the simulated user spoiled, and how much of its training users' words it repeats.

    Needs no model. Real users are the row to compare with.
    """
    from launch.privacy.audit import PEOPLE, audit_run, write_unspoiled
    from launch.privacy.cards import KIND_NAMES, percent
    from rlenv.evaluation.membership import LONG_RUN, SEED_WORDS

    found = audit_run(run)
    written = {}
    if unspoiled is not None:
        written = write_unspoiled(run, [one.name for one in found if one.name != PEOPLE], unspoiled)
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in found], indent=1))
        return
    table = Table(box=None)
    table.add_column("sessions of", no_wrap=True)
    for title in ("all", "left", "repeats", "as chatbot", "contradicts", "spoiled", "longest", f"{LONG_RUN}+ words"):
        table.add_column(title, justify="right")
    for one in found:
        shares = [percent(one.faults.share(kind)) for kind in (*KIND_NAMES, None)]
        longest = str(one.run.num_words) if one.run.num_words else f"< {SEED_WORDS}"
        table.add_row(escape(one.name), f"{one.faults.num:,}", *shares, longest, f"{one.run.num_sessions:,}")
    console = Console()
    console.print(table)
    console.print(
        f"Spoiled: the user {', '.join(KIND_NAMES.values())}, by rules that miss some. Longest: words in a row, "
        "verbatim, of one training user and of nobody else.",
        highlight=False,
    )
    for version, number in written.items():
        console.print(f"{unspoiled}/{version}.jsonl: {number:,} sessions", highlight=False, markup=False)


def forget(
    run: Annotated[Path, typer.Argument(help="a run directory")],
    user: Annotated[str, typer.Option(help="the user's id, as in the sessions file")],
    dry_run: Annotated[bool, typer.Option(help="say what would be removed, and change nothing")] = False,
) -> None:
    """Remove a person's sessions, and all that was simulated and scored from them, from a run.

    Weights cannot forget: the adapters and discriminators that were trained on the person are listed.
    """
    from launch.privacy.forget import forget as forget_user

    found = forget_user(run, user, dry_run=dry_run)
    done = "would be removed" if dry_run else "removed"
    show_counts(
        f"{run}: user {user}",
        {
            "real sessions": found.num_sessions,
            f"records {done}": sum(found.records.values()),
            **{f"  {name}": number for name, number in found.records.items()},
        },
    )
    for title, names in (
        ("trained on this user; delete, or train anew", [*found.adapters, *found.discriminators]),
        ("name a session of this user and are left as they are; delete, or make anew", found.quoting),
    ):
        if names:
            typer.echo(f"{title}:")
            for name in names:
                typer.echo(f"  {name}")


def register(app: typer.Typer) -> None:
    """Adds the commands to an app."""
    app.command("scrub")(scrub)
    app.command("plant")(plant)
    app.command("card")(card)
    app.command("audit")(audit)
    app.command("forget")(forget)
