"""The commands about labels: ``rlenv taxonomy``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from launch.data_commands import told
from rlenv.errors import ConfigError


def taxonomy(
    file: Annotated[Path | None, typer.Argument(help="a taxonomy of your own to check and show; none is ours")] = None,
    copy_to: Annotated[Path | None, typer.Option(help="write ours there, to be edited")] = None,
) -> None:
    """Show the categories of user actions and chatbot issues, or copy them to a file of your own."""
    from rlenv.lines import write_atomic
    from rlenv.taxonomy import DEFAULT_FILE, GROUP_NAMES, load_taxonomy

    with told():
        categories = load_taxonomy(file)
        if copy_to is not None:
            if copy_to.exists():
                raise ConfigError(f"--copy-to {copy_to}: there is a file already; name a new one")
            write_atomic(copy_to, [(file or DEFAULT_FILE).read_bytes()])
    for kind in ("actions", "issues"):
        rows = getattr(categories, kind)
        table = Table(title=f"{len(rows)} {kind}", title_justify="left", box=None)
        for column in ("group", "id", "name", "description"):
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(GROUP_NAMES[row.group], *map(escape, (row.id, row.name, row.description)))
        Console().print(table)


def register(app: typer.Typer) -> None:
    """Adds the commands to an app."""
    app.command("taxonomy")(taxonomy)
