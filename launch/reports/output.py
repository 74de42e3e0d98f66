"""Writes the folder of an evaluation: metrics.json, tables, figures and the report."""

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
    """Writes everything to ``folder``; returns the numbers of tables and figures.

    Args:
        folder: an existing folder.
        evaluation: the evaluation.
        inputs: the sessions that it was made from.
        transcripts: number of simulated conversations to show per simulator.
        real_transcripts: number of conversations of real users to show.
        seed: the seed that chooses them.
        own_sheets: further tables, written as CSV files.
        own_sections: further sections, at the start of the report.
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
    """Checks that ``out`` may be written.

    Raises:
        ConfigError: ``out`` exists and ``overwrite`` is false, or it is not an evaluation of rlenv.
    """
    if not out.exists():
        return
    if not (out / METRICS).is_file():
        raise ConfigError(f"--out {out} exists and is not an evaluation; choose another folder")
    if not overwrite:
        raise ConfigError(f"--out {out} holds an evaluation; give --overwrite to replace it, or choose another folder")


def write_tables(folder: Path, evaluation: Evaluation, tables: list[Sheet]) -> None:
    """Writes ``metrics.json`` and the CSV files."""
    write_json(folder / METRICS, evaluation.model_dump(mode="json"))
    (folder / "tables").mkdir()
    for sheet in tables:
        write_text(folder / f"tables/{sheet.name}.csv", to_csv(sheet))
