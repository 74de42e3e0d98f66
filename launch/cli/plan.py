"""The command ``rlenv plan``: what a configuration needs on given GPUs, before any are rented."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def plan(
    config: Annotated[Path, typer.Argument(help="YAML file of an adversarial run, such as conf/paper.yaml")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="settings that override those of the file, in the form key.sub=value")
    ] = None,
    gpus: Annotated[
        str, typer.Option(help="the hardware: GPUS x GIB as in 8x80, or NODES x GPUS x GIB as in 2x8x80")
    ] = "8x80",
    assume: Annotated[
        list[str] | None, typer.Option(help="an assumption as key=value, such as context_tokens=1000; may be repeated")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Say who sits on which GPU in each phase, how much memory each needs, and how many GPU-hours the run takes.

    Needs no GPU. The exit code is 1 if the run does not fit, with the settings to change.
    """
    from launch.plan import assumptions
    from launch.plan.hardware import parse_gpus
    from launch.plan.plan import plan_run
    from launch.plan.report import print_plan
    from launch.run.settings import load_config

    settings = load_config(config, overrides or [])
    made = plan_run(settings, parse_gpus(gpus), assumptions.assume(assume or []))
    if as_json:
        typer.echo(json.dumps(made.to_json(), indent=1))
    else:
        print_plan(made)
    made.require_fit()


def register(app: typer.Typer) -> None:
    """Adds the command to an app."""
    app.command("plan")(plan)
