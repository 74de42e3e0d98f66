"""The report of an evaluation: which tables, figures and transcripts stand where. Its looks are ``pages``'."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from launch.reports.figures import Picture
from launch.reports.pages import REPORT, Section, section, write_page
from launch.reports.readings import readings
from launch.reports.sheets import Sheet
from launch.reports.transcripts import Transcript
from rlenv.evaluation.suite import Evaluation

SECTIONS = (
    ("Who is compared", "subjects", None),
    ("Can simulated users be told from real ones? (Table 2)", "table2_discriminator", "discriminator_by_turn"),
    ("Is the discriminator's probability one?", "calibration", "calibration"),
    ("Linguistic diversity (Table 1)", "table1_linguistic", None),
    ("Session embeddings (Figure 3)", "figure3_embeddings", "figure3_embeddings"),
    ("User actions: distance (Table 4)", "table4_actions", None),
    ("User actions: rates (Figure 5)", "figure5_action_rates", "figure5_actions"),
    ("Chatbot issues: rates (Figure 2)", "figure2_issue_rates", "figure2_issue_rates"),
    ("Chatbot issues: categories (Figure 4)", "figure4_issue_categories", "figure4_issue_deltas"),
    ("Do users object when the chatbot fails?", "failure_sensitivity", None),
    ("Predictive validity (Table 3)", "table3_validity", None),
    ("Chatbot by chatbot (Figure 6)", "figure6_chatbots", "figure6_chatbots"),
    ("A/B tests (Table 5)", "table5_ab", None),
)
"""(heading, table, figure) in the order of the report; what there is no data for is left out."""


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
        folder: where.
        evaluation: what is reported.
        tables: its tables.
        pictures: its figures, as PNG files.
        transcripts: the conversations to show.
        controls: what the controls say, one sentence each.
        notes: what is missing, one sentence each.
        first: sections of the caller's own, before the others.
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
    said = readings(evaluation)
    made = []
    for title, table, figure in SECTIONS:
        sheet, picture = sheet_of.get(table), picture_of.get(figure or "")
        if sheet is None and picture is None:
            continue
        made.append(section(table, title, said.get(table, ""), sheet, picture))
    return made
