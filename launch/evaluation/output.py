"""Everything that an evaluation leaves in its folder, written at once: metrics.json, tables, figures, the report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from launch.evaluation.figures import draw
from launch.evaluation.inputs import Inputs
from launch.evaluation.pages import Section
from launch.evaluation.report import write_report
from launch.evaluation.sheets import Sheet, sheets
from launch.evaluation.transcripts import choose_transcripts
from launch.evaluation.writing import write_tables
from rlenv.evaluation.suite import Evaluation


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
    write_report(folder, evaluation, tables, pictures, shown, inputs.verdicts, evaluation.notes, own_sections)
    return len(tables) + len(own_sheets), len(pictures)
