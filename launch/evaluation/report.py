"""The report: one HTML file with everything in it, which opens from disk and asks no network for anything."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from launch.evaluation.figures import Picture
from launch.evaluation.readings import readings
from launch.evaluation.sheets import Sheet, Value
from launch.evaluation.transcripts import Transcript
from launch.run_directory import write_text
from rlenv.evaluation.intervals import Estimate
from rlenv.evaluation.suite import Evaluation

REPORT = "report.html"

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
    ("Predictive validity (Table 3)", "table3_validity", None),
    ("Chatbot by chatbot (Figure 6)", "figure6_chatbots", "figure6_chatbots"),
    ("A/B tests (Table 5)", "table5_ab", None),
)
"""(heading, table, figure) in the order of the report; what there is no data for is left out."""


@dataclass(frozen=True)
class Shown:
    """A cell as the report shows it."""

    text: str
    interval: str = ""
    sort: str = ""
    """What the column is sorted by; empty for a gap, which stays last."""
    number: bool = False


@dataclass(frozen=True)
class Section:
    """One heading with its sentence, figure and table."""

    anchor: str
    title: str
    reading: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Shown, ...], ...]
    image: str
    """Data URI, or empty."""
    alt: str


def write_report(
    folder: Path,
    evaluation: Evaluation,
    tables: Sequence[Sheet],
    pictures: Sequence[Picture],
    transcripts: Sequence[Transcript],
    controls: Sequence[str],
    notes: Sequence[str],
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
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template("report.html.jinja").render(
        sections=sections(evaluation, tables, pictures),
        controls=controls,
        notes=notes,
        transcripts=transcripts,
        evaluation=evaluation,
    )
    write_text(folder / REPORT, text)


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
        columns, rows = _shown(sheet) if sheet else ((), ())
        made.append(
            Section(
                anchor=table,
                title=title,
                reading=said.get(table, ""),
                columns=columns,
                rows=rows,
                image=data_uri(picture.path) if picture else "",
                alt=picture.title if picture else "",
            )
        )
    return made


def data_uri(path: Path) -> str:
    """Returns a PNG file as a data URI."""
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")


def _shown(sheet: Sheet) -> tuple[tuple[str, ...], tuple[tuple[Shown, ...], ...]]:
    places = [i for i, column in enumerate(sheet.columns) if column not in sheet.csv_only]
    columns = tuple(
        sheet.columns[i].replace("_", " ") + (", %" if sheet.columns[i] in sheet.percent else "") for i in places
    )
    rows = tuple(
        tuple(show(row[i], 100 if sheet.columns[i] in sheet.percent else 1) for i in places) for row in sheet.rows
    )
    return columns, rows


def show(value: Value, scale: int = 1) -> Shown:
    """Returns a cell as the report shows it: a dash for a gap, never a zero.

    >>> show(None).text, show(0.25, 100).text, show(Estimate(value=0.5, low=0.25, high=0.75)).interval
    ('–', '25.00', '[0.250, 0.750]')
    """
    if isinstance(value, Estimate):
        if value.value is None:
            return Shown("–", number=True)
        known = value.low is not None and value.high is not None
        interval = f"[{_number(value.low, scale)}, {_number(value.high, scale)}]" if known else ""
        return Shown(_number(value.value, scale), interval, repr(value.value), number=True)
    if value is None:
        return Shown("–", number=True)
    if isinstance(value, str):
        return Shown(value.replace("_", " ") if value.islower() and " " not in value else value, sort=value)
    if isinstance(value, int):
        return Shown(f"{value:,}", sort=str(value), number=True)
    return Shown(_number(value, scale), sort=repr(value), number=True)


def _number(value: float | None, scale: int) -> str:
    if value is None:
        return "–"
    scaled = scale * value
    if scale != 1 or abs(scaled) >= 10:
        return f"{scaled:.2f}"
    return f"{scaled:.1g}" if 0 < abs(scaled) < 0.001 else f"{scaled:.3f}"
