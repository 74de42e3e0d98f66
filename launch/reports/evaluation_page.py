"""Writes the report of an evaluation: the order of its tables, figures and transcripts. The layout is in ``pages``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from launch.reports.captions import captions
from launch.reports.figures import Picture
from launch.reports.pages import REPORT, Section, section, write_page
from launch.reports.sheets import Sheet
from launch.reports.transcripts import Transcript
from rlenv.evaluation.suite import Evaluation

SECTIONS = (
    ("Simulators and real sessions", "subjects", None),
    (
        "Can a discriminator tell simulated users from real ones? (Table 2)",
        "table2_discriminator",
        "discriminator_by_turn",
    ),
    ("Calibration of the discriminators", "calibration", "calibration"),
    ("Linguistic diversity (Table 1)", "table1_linguistic", None),
    ("Session embeddings (Figure 3)", "figure3_embeddings", "figure3_embeddings"),
    ("User actions: distance from real users (Table 4)", "table4_actions", None),
    ("User actions: rates (Figure 5)", "figure5_action_rates", "figure5_actions"),
    ("Chatbot issues: rates (Figure 2)", "figure2_issue_rates", "figure2_issue_rates"),
    ("Chatbot issues: categories (Figure 4)", "figure4_issue_categories", "figure4_issue_deltas"),
    ("Do users object when the chatbot fails?", "failure_sensitivity", None),
    ("Predictive validity (Table 3)", "table3_validity", None),
    ("Chatbot by chatbot (Figure 6)", "figure6_chatbots", "figure6_chatbots"),
    ("A/B tests (Table 5)", "table5_ab", None),
)
"""(heading, table, figure) in the order of the report; sections without data are left out."""


def write_report(
    folder: Path,
    evaluation: Evaluation,
    tables: Sequence[Sheet],
    pictures: Sequence[Picture],
    transcripts: Sequence[Transcript],
    controls: Sequence[str],
    notes: Sequence[str],
    first: Sequence[Section] = (),
) -> None:
    """Writes ``report.html``.

    Args:
        folder: the report's folder.
        evaluation: the evaluation to report.
        tables: its tables.
        pictures: its figures, as PNG files.
        transcripts: the conversations to show.
        controls: the verdicts of the controls, one sentence each.
        notes: what is missing, one sentence each.
        first: further sections, to put before the others.
    """
    write_page(
        folder / REPORT,
        "report.html.jinja",
        sections=[*first, *sections(evaluation, tables, pictures)],
        controls=controls,
        notes=notes,
        transcripts=transcripts,
        evaluation=evaluation,
    )


def sections(evaluation: Evaluation, tables: Sequence[Sheet], pictures: Sequence[Picture]) -> list[Section]:
    """Returns the sections that have a table or a figure."""
    sheet_of = {sheet.name: sheet for sheet in tables}
    picture_of = {picture.name: picture for picture in pictures}
    texts = captions(evaluation)
    result = []
    for title, table, figure in SECTIONS:
        sheet, picture = sheet_of.get(table), picture_of.get(figure or "")
        if sheet is None and picture is None:
            continue
        result.append(section(table, title, texts.get(table, ""), sheet, picture))
    return result
