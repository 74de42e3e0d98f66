"""Transcripts of one context side by side: the real session and a simulated one per simulator version.

The only command that prints message text to the terminal.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from launch.adversarial.simulation import read_simulated
from launch.run.contents import SPLITS, simulated_versions
from launch.run.directory import RunDirectory
from rlenv.core.errors import ConfigError
from rlenv.core.files import read_records
from rlenv.core.seeds import derive_seed
from rlenv.core.types import Session, SessionScores
from rlenv.data.sessions import read_sessions


def side_by_side(run: RunDirectory, versions: Sequence[str], context_id: str | None, seed: int = 0) -> Table:
    """Returns a table with the real session in the first column and each version's session in a further one.

    Beside a user message that was scored are the log-odds, after it, that the session is real.

    Args:
        run: the run directory.
        versions: simulator versions; an empty list takes the first and the last of the run.
        context_id: the context to show; None draws one of the evaluation users' under ``seed``.

    Raises:
        ConfigError: the run has no such version or context.
    """
    available = simulated_versions(run.root)
    if not available:
        raise ConfigError(f"{run.root} has no simulated sessions yet")
    versions = list(versions) or list(dict.fromkeys([available[0], available[-1]]))
    unknown = [v for v in versions if v not in available]
    if unknown:
        raise ConfigError(
            f"{run.root}: no simulated sessions of {', '.join(unknown)}; there are {', '.join(available)}"
        )
    simulated = {v: read_simulated(run.path(f"{v}/simulated")) for v in versions}
    ids = sorted({s.context_id for s in simulated[versions[0]] if s.part == "evaluation"})
    if not ids and context_id is None:
        raise ConfigError(f"{run.root}: {versions[0]} has no simulated session of the evaluation users")
    chosen = context_id or ids[derive_seed(seed, "transcript") % len(ids)]
    real = _real(run, chosen)
    table = Table(title=f"context {chosen}", box=box.SIMPLE_HEAD, padding=(0, 1))
    table.add_column(f"real (chatbot: {real.chatbot})", ratio=1)
    columns = [_lines(real, {})]
    for version in versions:
        found = next((s for s in simulated[version] if s.context_id == chosen), None)
        if found is None:
            raise ConfigError(f"{version} has no session of context {chosen}")
        table.add_column(f"{version} (chatbot: {found.session.chatbot})", ratio=1)
        columns.append(_lines(found.session, _scores(run, version, found.session.session_id)))
    for row in zip_longest(*columns, fillvalue=""):
        table.add_row(*row)
    return table


def print_transcripts(root: Path, versions: Sequence[str], context_id: str | None, seed: int) -> None:
    """Prints ``side_by_side`` in the full width of the terminal."""
    Console().print(side_by_side(RunDirectory(root), versions, context_id, seed))


def _real(run: RunDirectory, context_id: str) -> Session:
    for split in reversed(SPLITS):
        for session in read_sessions(run.path(f"data/{split}.jsonl.gz"), neighbours="keep"):
            if session.session_id == context_id:
                return session
    raise ConfigError(f"no context {context_id} in {run.root}")


def _scores(run: RunDirectory, version: str, session_id: str) -> dict[int, float]:
    path = run.path(f"{version}/preferences/scores.jsonl")
    if not path.exists():
        return {}
    for scores in read_records(path, SessionScores):
        if scores.session_id == session_id:
            return dict(enumerate(scores.log_odds))
    return {}


def _lines(session: Session, log_odds: dict[int, float]) -> list[str]:
    lines, turn = [], 0
    for message in session.messages:
        turn += message.role == "user"
        score = f" [dim]({log_odds[turn]:+.1f})[/]" if message.role == "user" and turn in log_odds else ""
        style = "bold" if message.role == "user" else "dim"
        lines.append(f"[{style}]{'user' if message.role == 'user' else 'bot'}[/] {escape(message.content)}{score}")
    return lines
