"""What every report is: one HTML file with everything in it, which opens from disk and asks no network for anything.

Sections of a sentence, a figure and a table that sorts by its columns; a gap is a dash, never a zero. Knows nothing of
what is reported.
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


def write_page(path: Path, template: str, **values: Any) -> None:
    """Writes the page that a template of this folder makes of ``values``."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    write_text(path, environment.get_template(template).render(**values))


def section(
    anchor: str, title: str, reading: str, sheet: Sheet | None = None, picture: Picture | None = None
) -> Section:
    """Returns one section; what it has not is left out.

    Args:
        anchor: of the page's links.
        title: its heading.
        reading: what it says, in a sentence.
        sheet: its table.
        picture: its figure.
    """
    columns, rows = _shown(sheet) if sheet else ((), ())
    return Section(
        anchor=anchor,
        title=title,
        reading=reading,
        columns=columns,
        rows=rows,
        image=data_uri(picture.path) if picture else "",
        alt=picture.title if picture else "",
    )


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
