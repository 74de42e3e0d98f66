"""The command ``rlenv status``: where a run stands, from another terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.table import Column, Table

from launch.reports.phase_times import PhaseTime, phase_times, summed
from launch.reports.status import Status, read_status
from launch.run.config.run import RunConfig
from launch.run.contents import run_settings
from launch.run.settings import renamed, typed
from rlenv.core.settings import Settings

T = TypeVar("T", bound=Settings)


def status(
    run: Annotated[Path, typer.Argument(help="a run directory")],
    phases: Annotated[bool, typer.Option("--phases", help="where the time of the finished phases went")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Print a run's phase, progress, rate, time left and failures. The run may be going on, or have ended.

    The exit code is 1 if the run failed, or was killed or interrupted.
    """
    found = status_of(run)
    if phases:
        _print_phases(phase_times(run), as_json)
        return
    if as_json:
        typer.echo(json.dumps(asdict(found), indent=1))
    else:
        console = Console()
        for line in sentences(found):
            console.print(line, highlight=False, soft_wrap=True, markup=False)
    if found.driver.state in ("failed", "killed", "interrupted"):
        raise typer.Exit(1)


def status_of(root: str | Path, now: float | None = None) -> Status:
    """Returns where the run in ``root`` stands, whatever kind of run it is.

    Raises:
        ConfigError: the folder holds no run, or its settings are damaged.
    """
    return read_status(root, expected_phases(run_settings(root)), now)


def expected_phases(settings: Mapping[str, Any]) -> list[str]:
    """Returns the phases of a run with these saved settings, in order; none for settings of no run.

    Raises:
        ConfigError: the settings are damaged.
    """
    # Only the driver's module that is asked is imported: a status is to be there at once.
    if "sft_sizes" in settings:
        from launch.study import driver as study
        from launch.study.config import StudyConfig

        return study.expected_phases(_read(StudyConfig, settings))
    if "rl" in settings:
        from launch.chatbot import driver as chatbot
        from launch.chatbot.config import ChatbotRunConfig

        return chatbot.expected_phases(_read(ChatbotRunConfig, settings))
    if "num_iterations" in settings:
        from launch.adversarial import expected as adversarial

        return adversarial.expected_phases(_read(RunConfig, settings))
    return []


def _read(schema: type[T], settings: Mapping[str, Any]) -> T:
    return typed(schema, [renamed(dict(settings))], "config.yaml")


def _print_phases(times: Sequence[PhaseTime], as_json: bool) -> None:
    """Prints the seconds of each phase in which a model worked and in which none did."""
    if as_json:
        typer.echo(json.dumps({"phases": [asdict(time) for time in times], "all": summed(times)}, indent=1))
        return
    table = Table(
        "phase", *(Column(name, justify="right") for name in ("seconds", "model works", "before", "after", "idle"))
    )
    total = summed(times)
    for time in times:
        share = f"{time.idle / total['seconds']:.1%}" if total["seconds"] else ""
        table.add_row(time.phase, *(f"{s:.1f}" for s in (time.seconds, time.working, time.before, time.after)), share)
    table.add_section()
    table.add_row("all", f"{total['seconds']:.1f}", f"{total['working']:.1f}", "", "", f"{total['idle_share']:.1%}")
    Console().print(table)


def sentences(found: Status) -> list[str]:
    """Returns a status as lines of text."""
    driver, progress = found.driver, found.progress
    at = f" in {driver.phase}" if driver.phase else ""
    host = f" on {driver.host}" if driver.host and driver.state == "running" else ""
    lines = [f"{found.root}: {driver.state}{at}{host}"]
    if driver.error:
        lines.append(f"  {driver.error}")
    if driver.state in ("failed", "killed", "interrupted", "stopped"):
        lines.append("  run the same command again to resume; finished phases are kept")
    if progress:
        rate = _rate(progress.rate)
        left = f", {duration(progress.seconds_left)} left" if progress.seconds_left is not None else ""
        lines.append(f"  {progress.title}: {progress.done:,} of {progress.total:,}{rate}{left}")
    if found.last_sign is not None and driver.state == "running":
        lines.append(f"  last written {duration(found.last_sign)} ago")
    spent = duration(sum(found.finished.values()))
    lines.append(f"  finished: {len(found.finished)} phases in {spent}" + _list(list(found.finished)[-3:], "last "))
    if found.remaining:
        about = "at least" if found.at_least else "about"
        left = f", {about} {duration(found.seconds_left)} left" if found.seconds_left is not None else ""
        lines.append(f"  to come: {len(found.remaining)} phases{left}" + _list(found.remaining[:3], "next "))
    if found.failed_conversations:
        kinds = ", ".join(f"{number} {name}" for name, number in found.failed_conversations.items())
        lines.append(f"  failed conversations: {kinds}")
    if "disc/accuracy_overall" in found.newest:
        lines.append(f"  {found.newest['version']}: discriminator right in {found.newest['disc/accuracy_overall']:.0%}")
    return lines


def duration(seconds: float) -> str:
    """Returns a duration in its two largest units.

    >>> duration(42), duration(125), duration(7260), duration(200_000)
    ('42 s', '2 min 5 s', '2 h 1 min', '2 d 7 h')
    """
    whole = round(seconds)
    for size, name, smaller, small in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {name}" + (f" {rest} {small}" if rest else "")
    return f"{whole} s"


def register(app: typer.Typer) -> None:
    """Adds the command to an app."""
    app.command("status")(status)


def _rate(rate: float | None) -> str:
    if rate is None:
        return ""
    return f", {rate:.2g} a second" if rate >= 0.1 else f", {60 * rate:.2g} a minute"


def _list(names: Sequence[str], before: str) -> str:
    return f" ({before}{', '.join(names)})" if names else ""
