"""The command ``rlenv verify``: whether the files of a run are those that its phases wrote."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from launch.reports.verify import PhaseFaults, Verified


def verify(
    run: Annotated[Path, typer.Argument(help="a run directory")],
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Check the size and SHA-256 of every file that the finished phases of a run wrote; nothing is changed.

    Names each file that is missing, truncated, changed or unknown, and the phase to make again. The exit code is 1
    if there is one.
    """
    from launch.reports.verify import verify as verify_run

    waiting = Console(stderr=True, quiet=as_json).status("reading")
    with waiting:
        found = verify_run(run, lambda phase: waiting.update(f"reading {phase}"))
    if as_json:
        typer.echo(json.dumps({"sound": found.sound, **asdict(found)}, indent=1))
    else:
        console = Console()
        for line in sentences(found):
            console.print(line, highlight=False, soft_wrap=True, markup=False)
    if not found.sound:
        raise typer.Exit(1)


def sentences(found: Verified) -> list[str]:
    """Returns the outcome of a check as lines of text."""
    outcome = "every file is as it was written" if found.sound else "there are faults"
    lines = [f"{found.root}: {_phases(len(found.checked))} checked; {outcome}"]
    lines += [line for damaged in found.damaged for line in _of_phase(damaged)]
    lines += found.unreadable
    if found.unchecked:
        lines.append(
            f"not checked: {_phases(len(found.unchecked))} without a manifest, made by an older version "
            f"({', '.join(found.unchecked)})"
        )
    return lines


def _of_phase(damaged: PhaseFaults) -> list[str]:
    lines = [
        f"{damaged.phase}/{fault.file}: {fault.kind}"
        + (f"; expected {fault.expected}, got {fault.came}" if fault.expected else "")
        for fault in damaged.faults
    ] or [f"{damaged.phase}: the whole folder is missing"]
    if {fault.kind for fault in damaged.faults} == {"unknown"}:
        return [*lines, "  no phase wrote it: move it out of the run if you do not need it there"]
    removed = f"remove the folder {damaged.phase} and " if damaged.faults else ""
    lines.append(f"  restore it from a copy, or {removed}run the same command again, which makes it anew")
    if damaged.made_from_it:
        lines.append(
            f"  made from it: {', '.join(damaged.made_from_it)}; they stay as they are. On a GPU a phase that is made "
            "again may differ in its last digits: remove them as well if they shall follow from it"
        )
    return lines


def _phases(number: int) -> str:
    return "1 phase" if number == 1 else f"{number} phases"


def register(app: typer.Typer) -> None:
    """Adds the command to an app."""
    app.command("verify")(verify)
