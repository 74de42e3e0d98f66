"""The command line: ``rlenv adversarial``, ``rlenv import``, ``rlenv validate``, ...

An error that the user can fix is printed without a traceback, and the exit code is 1.
"""

from __future__ import annotations

import logging
import signal
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape
from typer.core import TyperGroup

import launch.cli.annotate as annotate_commands
import launch.cli.data as data_commands
import launch.cli.plan as plan_command
import launch.cli.privacy as privacy_commands
import launch.cli.rewards as rewards_command
import launch.cli.status as status_command
import launch.cli.verify as verify_command
import launch.reports.evaluate as evaluation_command
from rlenv.core.errors import RlenvError
from rlenv.core.files import NO_ROOM
from rlenv.data.private import private_files

ROOT = Path(__file__).parents[2]

RESUMABLE = ("adversarial", "annotate", "pretrain", "study", "summarize", "train-chatbot")
"""Commands that continue where an earlier call of the same command has stopped."""
DryRun = Annotated[bool, typer.Option("--dry-run", help="check the settings and print them, without running")]


class Terminated(KeyboardInterrupt):
    """SIGTERM, by which Slurm, ``ray job stop`` and containers end a process; treated like Ctrl-C."""


def _terminate(*_: object) -> None:
    raise Terminated


class Commands(TyperGroup):
    """The commands, of which each ends with a sentence and code 130 on Ctrl-C, 143 on SIGTERM."""

    def invoke(self, ctx: Any) -> Any:
        """Runs the chosen command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            way_on = "; run the same command again to go on" if ctx.invoked_subcommand in RESUMABLE else ""
            Console(stderr=True).print(f"interrupted{way_on}", highlight=False)
            raise typer.Exit(143 if isinstance(error, Terminated) else 130) from None


app = typer.Typer(
    cls=Commands,
    name="rlenv",
    help="Conversations as an RL environment, with user simulators that are trained adversarially.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.callback()
def shared(debug: Annotated[bool, typer.Option("--debug", help="show the traceback of an error")] = False) -> None:
    """Conversations as an RL environment, with user simulators that are trained adversarially."""


data_commands.register(app)
annotate_commands.register(app)
evaluation_command.register(app)
plan_command.register(app)
privacy_commands.register(app)
rewards_command.register(app)
status_command.register(app)
verify_command.register(app)


@app.command()
def adversarial(
    config: Annotated[
        Path,
        typer.Argument(help="YAML file with the settings that differ from the defaults, such as conf/quickstart.yaml"),
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="settings that override those of the file, in the form key.sub=value")
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Train a user simulator adversarially (Algorithm 1 of the paper). The same command resumes an interrupted run.

    Everything is written to the run directory, the setting out_dir. --dry-run prints all settings.
    """
    from launch.run.preflight import check_functions, missing_here
    from launch.run.settings import load_config, to_dict

    settings = load_config(config, overrides or [])
    if dry_run:
        check_functions(settings)
        _show_settings(to_dict(settings), missing_here(settings))
        return
    from launch.adversarial.algorithm import run_adversarial
    from launch.adversarial.table import print_report

    _quiet_libraries()
    print_report(run_adversarial(settings))


@app.command()
def train_chatbot(
    config: Annotated[
        Path,
        typer.Argument(help="YAML file with the settings that differ from the defaults, such as conf/chatbot_rl.yaml"),
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="settings that override those of the file, in the form key.sub=value")
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Train a chatbot against the simulated users of an adversarial run. The same command resumes the training.

    The setting run is the adversarial run's directory, for example run=runs/quickstart. --dry-run prints all settings.
    """
    from launch.chatbot.config import load_chatbot_config
    from launch.chatbot.run import check_settings, missing_here
    from launch.run.settings import to_dict

    settings = load_chatbot_config(config, overrides or [])
    if dry_run:
        check_settings(settings)
        _show_settings(to_dict(settings), missing_here(settings))
        return
    from launch.chatbot.driver import train_chatbot as train
    from launch.chatbot.report import sentences

    _quiet_libraries()
    for sentence in sentences(train(settings)):
        typer.echo(sentence)
    typer.echo(f"The report: {Path(settings.out_dir) / 'report' / 'report.html'}")


@app.command()
def study(
    config: Annotated[
        Path,
        typer.Argument(help="YAML file with the settings that differ from the defaults, such as conf/study.yaml"),
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="settings that override those of the file, in the form key.sub=value")
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Run the paper's experiment on the reference population, whose true labels are known.

    The same command resumes an interrupted study. --dry-run prints all settings.
    """
    from launch.run.preflight import check_functions, missing_here
    from launch.run.settings import to_dict
    from launch.study.config import adversarial_config, load_study

    settings = load_study(config, overrides or [])
    if dry_run:
        its_run = adversarial_config(settings)
        check_functions(its_run)
        _show_settings(to_dict(settings), [f"run.{problem}" for problem in missing_here(its_run)])
        return
    from launch.study.driver import run_study
    from launch.study.report import print_study

    _quiet_libraries()
    print_study(run_study(settings))


@app.command()
def pretrain(
    config: Annotated[Path, typer.Argument(help="YAML file of settings, such as conf/population_llama.yaml")],
    out: Annotated[Path, typer.Argument(help="folder to write the checkpoint to; it must not exist")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="settings that override those of the file, in the form key.sub=value")
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Pretrain a small Llama on the synthetic reference population, as for the package's population-llama."""
    from launch.run.settings import load_config, to_dict

    settings = load_config(config, overrides or [])
    if dry_run:
        _show_settings(to_dict(settings), [f"OUT: {out} exists already; choose another folder"] if out.exists() else [])
        return
    from launch.adversarial.pretraining import pretrain as run_pretraining

    _quiet_libraries()
    typer.echo(f"The checkpoint: {run_pretraining(settings, out)}")


@app.command()
def chatbot_pairs(
    run: Annotated[Path, typer.Argument(help="run directory of train-chatbot")],
    out: Annotated[Path, typer.Argument(help="JSON lines file to write")],
    min_margin: Annotated[float, typer.Option(help="keep only pairs whose returns differ by more than this")] = 0.0,
) -> None:
    """Export the conversations of a chatbot's training as preference pairs for DPO."""
    from launch.chatbot.pairs import export_pairs

    _quiet_libraries()
    data_commands.show_counts(str(out), export_pairs(run, out, min_margin))


@app.command()
def table(run: Annotated[Path, typer.Argument(help="run directory of rlenv adversarial")]) -> None:
    """Print the results table of a run, with one row per simulator version."""
    from launch.adversarial.table import print_report
    from launch.run.directory import RunDirectory

    print_report(RunDirectory(run))


@app.command()
def transcripts(
    run: Annotated[Path, typer.Argument(help="a run directory")],
    versions: Annotated[
        list[str] | None, typer.Argument(help="simulator versions; by default the first and the last")
    ] = None,
    context: Annotated[
        str | None, typer.Option(help="context id; by default one of the evaluation users', at random")
    ] = None,
    seed: Annotated[int, typer.Option(help="seed of the random choice")] = 0,
) -> None:
    """Print the transcripts of one context side by side: the real session and the simulated ones."""
    from launch.adversarial.transcripts import print_transcripts

    print_transcripts(run, versions or [], context, seed)


@app.command()
def serve_user(
    config: Annotated[Path, typer.Argument(help="a run directory, or the YAML file of an environment")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="settings that override those of the file, in the form key.sub=value")
    ] = None,
    version: Annotated[
        list[str] | None,
        typer.Option(help="simulator version to serve, such as it3; may be repeated; by default the newest"),
    ] = None,
    host: Annotated[str, typer.Option(help="address to listen on")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="port to listen on")] = 8000,
    api_key_env: Annotated[
        str | None, typer.Option(help="name of the environment variable with the API key that clients must send")
    ] = None,
) -> None:
    """Serve trained simulators behind an OpenAI-compatible API, as users for other evaluation harnesses."""
    from launch.serving.user_endpoint import serve_user

    _quiet_libraries()
    serve_user(config, version or [], host=host, port=port, api_key_env=api_key_env, overrides=overrides or [])


def _show_settings(settings: dict[str, Any], missing: list[str]) -> None:
    """Prints all settings, and on standard error what this machine lacks to run them."""
    import yaml

    typer.echo(yaml.safe_dump(settings, sort_keys=False))
    for problem in missing:
        Console(stderr=True).print(f"[bold yellow]not here[/] {escape(problem)}", highlight=False, soft_wrap=True)


def _quiet_libraries() -> None:
    """Turns off the libraries' progress bars and notices, which would garble ours; the run's logs have what matters."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()


def main() -> None:
    """Runs the command line; exits with 1 on an error, 130 on Ctrl-C and 143 on SIGTERM (``Commands``).

    A traceback is shown only with ``--debug``, which may stand anywhere.
    """
    debug = "--debug" in sys.argv[1:]
    signal.signal(signal.SIGTERM, _terminate)
    logging.basicConfig(
        level=logging.WARNING,
        format="%(message)s",
        handlers=[RichHandler(console=Console(stderr=True), show_path=False, markup=False)],
    )
    logging.getLogger("launch").setLevel(logging.INFO)
    try:
        with private_files():
            app([argument for argument in sys.argv[1:] if argument != "--debug"])
    except Exception as error:
        if debug:
            traceback.print_exception(error)
        Console(stderr=True).print(f"[bold red]error[/] {escape(message_of(error))}", highlight=False, soft_wrap=True)
        sys.exit(1)


def message_of(error: Exception) -> str:
    """Returns what a user is told about an error. The text of errors that are not ours could quote a message.

    >>> message_of(PermissionError(13, "Permission denied", "runs/a/config.yaml"))
    'runs/a/config.yaml: permission denied'
    """
    if isinstance(error, RlenvError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        way_out = "; make room and run the same command again" if error.errno in NO_ROOM else ""
        return f"{error.filename or 'a file'}: {error.strerror.lower()}{way_out}"
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if Path(frame.filename).is_relative_to(ROOT)] or frames
    place = f" in {Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else ""
    return (
        f"{type(error).__name__}{place}: this is a fault of rlenv and not yours. What is finished is kept. Run the "
        "command again with --debug to see where it comes from, and report that"
    )
