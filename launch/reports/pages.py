"""Writes a report as one self-contained HTML file, which opens from disk and needs no network.

A section has a caption, a figure and a sortable table. A missing value is a dash, never a zero. Independent of the
content of reports.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from launch.reports.figures import Picture
from launch.reports.sheets import Sheet, Value
from rlenv.core.files import write_text
from rlenv.evaluation.statistics.intervals import Estimate

REPORT = "report.html"


@dataclass(frozen=True)
class TableCell:
    """A table cell as text."""

    text: str
    interval: str = ""
    sort: str = ""
    """The sort key of the cell; empty for a missing value, which is sorted last."""
    number: bool = False


@dataclass(frozen=True)
class Section:
    """One section: a heading with its caption, figure and table."""

    anchor: str
    title: str
    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[TableCell, ...], ...]
    image: str
    """The figure as a data URI, or empty."""
    alt: str


def write_page(path: Path, template: str, **values: Any) -> None:
    """Renders a template of this folder with ``values`` and writes the page to ``path``."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    write_text(path, environment.get_template(template).render(**values))


def section(
    anchor: str, title: str, caption: str, sheet: Sheet | None = None, picture: Picture | None = None
) -> Section:
    """Returns one section.

    Args:
        anchor: the target of links to it.
        title: its heading.
        caption: its main result in a sentence or two.
        sheet: its table, if it has one.
        picture: its figure, if it has one.
    """
    columns, rows = _table(sheet) if sheet else ((), ())
    return Section(
        anchor=anchor,
        title=title,
        caption=caption,
        columns=columns,
        rows=rows,
        image=data_uri(picture.path) if picture else "",
        alt=picture.title if picture else "",
    )


def data_uri(path: Path) -> str:
    """Returns a PNG file as a data URI."""
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")


def _table(sheet: Sheet) -> tuple[tuple[str, ...], tuple[tuple[TableCell, ...], ...]]:
    indices = [i for i, column in enumerate(sheet.columns) if column not in sheet.csv_only]
    columns = tuple(
        sheet.columns[i].replace("_", " ") + (", %" if sheet.columns[i] in sheet.percent else "") for i in indices
    )
    rows = tuple(
        tuple(table_cell(row[i], 100 if sheet.columns[i] in sheet.percent else 1) for i in indices)
        for row in sheet.rows
    )
    return columns, rows


def table_cell(value: Value, scale: int = 1) -> TableCell:
    """Returns a value as a table cell; a missing value is a dash, never a zero.

    >>> table_cell(None).text, table_cell(0.25, 100).text, table_cell(Estimate(value=0.5, low=0.25, high=0.75)).interval
    ('–', '25.00', '[0.250, 0.750]')
    """
    if isinstance(value, Estimate):
        if value.value is None:
            return TableCell("–", number=True)
        has_interval = value.low is not None and value.high is not None
        interval = f"[{_number(value.low, scale)}, {_number(value.high, scale)}]" if has_interval else ""
        return TableCell(_number(value.value, scale), interval, repr(value.value), number=True)
    if value is None:
        return TableCell("–", number=True)
    if isinstance(value, str):
        return TableCell(value.replace("_", " ") if value.islower() and " " not in value else value, sort=value)
    if isinstance(value, int):
        return TableCell(f"{value:,}", sort=str(value), number=True)
    return TableCell(_number(value, scale), sort=repr(value), number=True)


def _number(value: float | None, scale: int) -> str:
    if value is None:
        return "–"
    scaled = scale * value
    if scale != 1 or abs(scaled) >= 10:
        return f"{scaled:.2f}"
    return f"{scaled:.1g}" if 0 < abs(scaled) < 0.001 else f"{scaled:.3f}"
