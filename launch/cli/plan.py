"""The command ``rlenv plan``: what a configuration needs on given GPUs, before any are rented, or on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rlenv.core.errors import ConfigError, PhaseError

if TYPE_CHECKING:
    from launch.plan.assumptions import Assumptions
    from launch.run.config.run import RunConfig


def plan(
    config: Annotated[Path, typer.Argument(help="YAML file of an adversarial run, such as conf/paper.yaml")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="settings that override those of the file, in the form key.sub=value")
    ] = None,
    gpus: Annotated[
        str | None,
        typer.Option(help="the hardware: GPUS x GIB as in 8x80 (the default), or NODES x GPUS x GIB as in 2x8x80"),
    ] = None,
    assume: Annotated[
        list[str] | None, typer.Option(help="an assumption as key=value, such as context_tokens=1000; may be repeated")
    ] = None,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure",
            help="run two steps of each training phase and start each engine on this machine, with the longest rows "
            "that the settings allow, and print predicted beside measured memory",
        ),
    ] = False,
    tokens: Annotated[
        int | None, typer.Option(min=1, help="with --measure: use rows of so many tokens, if the longest are longer")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Say who sits on which GPU in each phase, how much memory each needs, and how many GPU-hours the run takes.

    Needs no GPU. The exit code is 1 if the run does not fit, with the settings to change. With --measure: what the
    phases take on this machine, on its CPU where train.num_gpus is 0; 1 if nothing could be measured.
    """
    from launch.plan import assumptions
    from launch.plan.hardware import parse_gpus
    from launch.plan.plan import plan_run
    from launch.plan.report import print_plan
    from launch.run.settings import load_config

    if tokens is not None and not measure:
        raise ConfigError("--tokens is for --measure; a plan's rows come from the settings and --assume")
    settings = load_config(config, overrides or [])
    if measure:
        _measure(settings, gpus, assumptions.assume(assume or []), tokens, as_json)
        return
    made = plan_run(settings, parse_gpus(gpus or "8x80"), assumptions.assume(assume or []))
    if as_json:
        typer.echo(json.dumps(made.to_json(), indent=1))
    else:
        print_plan(made)
    made.require_fit()


def _measure(settings: RunConfig, gpus: str | None, assumed: Assumptions, tokens: int | None, as_json: bool) -> None:
    from rich.console import Console

    from launch.measure.measure import device_here, machine, measure_run
    from launch.measure.report import print_measured
    from launch.plan.hardware import parse_gpus

    errors = Console(stderr=True)
    found = measure_run(
        settings,
        gpus=parse_gpus(gpus) if gpus else None,
        assumed=assumed,
        tokens=tokens,
        on_start=lambda phase: errors.print(f"measuring: {phase}", highlight=False),
    )
    where = machine(device_here(settings, None))
    if as_json:
        phases = [one.to_json() for one in found]
        typer.echo(json.dumps({"name": settings.name, "machine": where, "phases": phases}, indent=1))
    else:
        print_measured(found, where, settings.name)
    if all(one.peak is None for one in found):
        raise PhaseError(f"{settings.name}: nothing could be measured; the reasons are above")


def register(app: typer.Typer) -> None:
    """Adds the command to an app."""
    app.command("plan")(plan)
