"""The command ``rlenv rewards``: whether a run's rewards know the real message among the simulator's own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from rlenv.evaluation.rewards import RewardCheck
    from rlenv.evaluation.statistics.intervals import Estimate


def rewards(
    run: Annotated[Path, typer.Argument(help="run directory of rlenv adversarial")],
    versions: Annotated[
        list[str] | None, typer.Argument(help="simulator versions with a discriminator; by default the newest")
    ] = None,
    sessions: Annotated[int, typer.Option(min=1, help="evaluation users' sessions to use, at most")] = 150,
    turns: Annotated[int, typer.Option(min=1, help="turns drawn in each session")] = 2,
    seed: Annotated[int, typer.Option(help="seed of the turns and of the simulator's messages")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Measure what a run's rewards are worth at single messages, on users that nothing was trained on.

    At drawn turns of real sessions the simulator answers in the user's place, and its discriminator compares its
    messages with the real one. Rewards that cannot tell them apart teach an update nothing.
    """
    found = {name: check_version(run, name, sessions, turns, seed) for name in versions or [newest_judged(run)]}
    if as_json:
        typer.echo(json.dumps({name: check.model_dump(mode="json") for name, check in found.items()}, indent=1))
        return
    console = Console()
    for name, check in found.items():
        for line in sentences(name, check):
            console.print(line, highlight=False, soft_wrap=True, markup=False)


def newest_judged(root: Path) -> str:
    """Returns the newest simulator version with a discriminator.

    Raises:
        ConfigError: the folder holds no run, or no discriminator is trained yet.
    """
    from launch.run.contents import discriminator_checkpoint
    from launch.run.directory import RunDirectory
    from launch.serving.config import load_env_config

    return discriminator_checkpoint(RunDirectory(root), load_env_config(root).settings).parents[1].name


def check_version(root: Path, version: str, num_sessions: int, num_turns: int, seed: int) -> RewardCheck:
    """Returns what the rewards of a version's discriminator are worth.

    Raises:
        ConfigError: the run has no such version, no discriminator of it, or no evaluation users.
        EngineError: a model could not be served.
    """
    from launch.adversarial.simulation import choose_contexts
    from launch.run.contents import read_data
    from launch.run.directory import RunDirectory
    from launch.run.progress import counting
    from launch.serving.config import EnvConfig, load_env_config
    from launch.serving.env import serve
    from rlenv.core.aio import run as run_async
    from rlenv.core.errors import ConfigError
    from rlenv.evaluation.rewards import compare_with_real, reward_check
    from rlenv.speakers.engine import EngineSpeaker

    config: EnvConfig = load_env_config(root)
    settings = config.settings
    contexts = choose_contexts(read_data(RunDirectory(root)), settings.collect, settings.discriminator, settings.seed)
    real = contexts["evaluation"][:num_sessions]
    if not real:
        raise ConfigError(f"{root}: the run has no evaluation users (data.evaluation_share)")
    its_own = replace(config, ensemble={version: 1.0}, discriminator=version)
    with serve(its_own, "chatbot", judged=True) as served, counting(f"{version}: rewards", len(real)) as advance:
        simulator, discriminator = served.parts.counterparts[version], served.discriminator
        if not isinstance(simulator, EngineSpeaker) or discriminator is None:
            raise ConfigError(f"{root}: {version} is not a model on an engine of the run")
        asked = replace(settings.preferences, num_turns=num_turns)
        found, num_too_long = run_async(
            compare_with_real(real, simulator, discriminator, asked, settings.env.max_turns, seed, advance)
        )
    return reward_check(found, num_too_long, seed)


def sentences(version: str, check: RewardCheck) -> list[str]:
    """Returns a version's figures as lines of text."""
    if not check.num_turns:
        return [f"{version}: no turn could be compared"]
    lines = [
        f"{version}: the real message among the simulator's own, at {check.num_turns:,} turns of "
        f"{check.accuracy.num:,} real sessions",
        f"  the real one has the higher reward in {_share(check.accuracy)} of {check.num_pairs:,} pairs; 50% is chance",
        f"  rewards are worth {_number(check.gain)} nats a turn; calibrated if multiplied by {_number(check.scale)}",
        f"  {_verdict(check)}",
    ]
    curve = [
        f"{b.mean_probability:.0%}: {b.share_real:.0%} of {b.num:,}"
        for b in check.curve.bins
        if b.mean_probability is not None and b.share_real is not None
    ]
    lines.append(f"  expected to be right, and right: {', '.join(curve)}")
    if check.num_too_long:
        lines.append(f"  left out as too long for the discriminator: {check.num_too_long:,} sessions")
    return lines


def _verdict(check: RewardCheck) -> str:
    accuracy, scale = check.accuracy, check.scale
    if accuracy.low is None or accuracy.low <= 0.5:
        return "these rewards do not know people's messages beyond chance: an update on them learns noise"
    if scale.value is not None and scale.high is not None and scale.high < 1:
        return f"they promise too much: dpo.beta={1 / max(scale.value, 1e-9):.1f} asks for what they are worth"
    if scale.low is not None and scale.low > 1:
        return "they promise too little, which costs an update nothing but speed"
    return "their size is right within chance"


def _share(estimate: Estimate) -> str:
    return f"{estimate.value:.0%}" + _interval(estimate, "{:.0%}")


def _number(estimate: Estimate) -> str:
    return f"{estimate.value:.2f}" + _interval(estimate, "{:.2f}")


def _interval(estimate: Estimate, number: str) -> str:
    if estimate.low is None or estimate.high is None:
        return ""
    return f" [{number.format(estimate.low)}, {number.format(estimate.high)}]"


def register(app: typer.Typer) -> None:
    """Adds the command to an app."""
    app.command("rewards")(rewards)
