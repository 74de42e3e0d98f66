"""Everything that an evaluation leaves in its folder, written at once: metrics.json, tables, figures, the report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from launch.reports.evaluation_page import write_report
from launch.reports.figures import draw
from launch.reports.inputs import Inputs
from launch.reports.pages import Section
from launch.reports.sheets import Sheet, sheets, to_csv
from launch.reports.transcripts import choose_transcripts
from rlenv.core.errors import ConfigError
from rlenv.core.files import write_json, write_text
from rlenv.evaluation.suite import Evaluation

METRICS = "metrics.json"


def write_evaluation(
    folder: Path,
    evaluation: Evaluation,
    inputs: Inputs,
    *,
    transcripts: int,
    real_transcripts: int,
    seed: int,
    own_sheets: Sequence[Sheet] = (),
    own_sections: Sequence[Section] = (),
) -> tuple[int, int]:
    """Returns the numbers of tables and figures that were written.

    Args:
        folder: is there, and is filled.
        evaluation: all tables.
        inputs: whose sessions they were made of.
        transcripts: simulated conversations to show, of each simulator.
        real_transcripts: conversations of real users to show.
        seed: of their draw.
        own_sheets: further tables, for the CSV files.
        own_sections: what the report begins with.
    """
    tables = sheets(evaluation)
    write_tables(folder, evaluation, [*tables, *own_sheets])
    pictures = draw(evaluation, folder / "figures")
    shown = choose_transcripts(inputs, transcripts, real_transcripts, seed)
    write_report(
        folder,
        evaluation,
        tables,
        pictures,
        shown,
        [*evaluation.warnings, *inputs.verdicts],
        evaluation.notes,
        own_sections,
    )
    return len(tables) + len(own_sheets), len(pictures)


def check_free(out: Path, overwrite: bool = False) -> None:
    """Returns if ``out`` may be written.

    Raises:
        ConfigError: ``out`` is there and ``overwrite`` is not given, or it is no evaluation of ours.
    """
    if not out.exists():
        return
    if not (out / METRICS).is_file():
        raise ConfigError(f"--out {out} is there and no evaluation; name another place")
    if not overwrite:
        raise ConfigError(f"--out {out} holds an evaluation; give --overwrite to replace it, or name another place")


def write_tables(folder: Path, evaluation: Evaluation, tables: list[Sheet]) -> None:
    """Writes ``metrics.json`` and the CSV files."""
    write_json(folder / METRICS, evaluation.model_dump(mode="json"))
    (folder / "tables").mkdir()
    for sheet in tables:
        write_text(folder / f"tables/{sheet.name}.csv", to_csv(sheet))
