"""Draws the paper's figures as PNG files.

They are issue rates (2), embeddings (3), category deltas (4), actions (5), chatbots (6), and the discriminator's
accuracy by turn and its calibration. Error bars are 95 % intervals, or standard errors where the axis says so.

It only draws the numbers of ``metrics.json``. A figure without data is left out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rlenv.evaluation.issues import IssueRow
from rlenv.evaluation.statistics.intervals import Estimate
from rlenv.evaluation.subjects import REAL
from rlenv.evaluation.suite import Evaluation

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c564b", "#7f7f7f")
"""Okabe and Ito's palette for colour-blind readers; the ninth simulator has the first colour with another mark."""
MARKS = ("o", "s", "^", "D", "v", "P")
REAL_COLOUR = "#222222"
MAX_PANELS = 6
MAX_DELTAS = 10
DPI = 150
FEW = 20
"""Decisions below which a point of the calibration figure would be chance; the table has all of them."""


@dataclass(frozen=True)
class Picture:
    """A figure and its file."""

    name: str
    title: str
    path: Path


def draw(evaluation: Evaluation, folder: Path) -> list[Picture]:
    """Returns the figures that have data, written to ``folder``."""
    plans: tuple[tuple[str, str, Callable[[Evaluation], Figure | None]], ...] = (
        ("discriminator_by_turn", "Discriminator accuracy by turn (Table 2)", _by_turn),
        ("calibration", "Calibration of the discriminators", _calibration),
        ("figure3_embeddings", "Session embeddings (Figure 3)", _embeddings),
        ("figure6_chatbots", "Issue rates of chatbots, simulated and real (Figure 6)", _chatbots),
        ("figure2_issue_rates", "Issue rates (Figure 2)", _issue_rates),
        ("figure4_issue_deltas", "Issue categories, simulated minus real (Figure 4)", _deltas),
        ("figure5_actions", "User actions (Figure 5)", _actions),
    )
    folder.mkdir(exist_ok=True)
    return [p for name, title, plan in plans if (p := save(plan(evaluation), folder, name, title))]


def save(figure: Figure | None, folder: Path, name: str, title: str) -> Picture | None:
    """Writes a figure as PNG, with the same bytes for the same data, and returns it; None for None."""
    if figure is None:
        return None
    path = folder / f"{name}.png"
    figure.savefig(path, dpi=DPI, metadata={"Software": None})
    return Picture(name, title, path)


def look(index: int) -> dict[str, Any]:
    """Returns the colour and mark of simulator number ``index``, which are the same in every figure."""
    return {"color": COLOURS[index % len(COLOURS)], "marker": MARKS[index % len(MARKS)]}


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """Returns a figure, sized in inches, and its axes row by row, without the top and right frame lines."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = [figure.add_subplot(rows, columns, i + 1) for i in range(rows * columns)]
    for ax in axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=9)
    return figure, axes


def _error(estimate: Estimate) -> list[list[float]] | None:
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return None
    return [[max(0.0, estimate.value - estimate.low)], [max(0.0, estimate.high - estimate.value)]]


def _by_turn(evaluation: Evaluation) -> Figure | None:
    rows = evaluation.discriminators
    if not rows:
        return None
    turns = [c for c in rows[0].cells if c.isdigit() and any(row.cells[c].num_decisions for row in rows)]
    names = [s.name for s in evaluation.simulators]
    figure, (ax,) = new_figure(6.4, 3.8)
    for i, row in enumerate(rows):
        shift = 0.03 * (i - (len(rows) - 1) / 2)
        style = look(names.index(row.name))
        cells = [(x + shift, row.cells[t].accuracy) for x, t in enumerate(turns)]
        known = [(x, accuracy.value, accuracy) for x, accuracy in cells if accuracy.value is not None]
        ax.plot([x for x, _, _ in known], [y for _, y, _ in known], lw=1.2, label=row.name, **style)
        for x, y, accuracy in known:
            ax.errorbar(x, y, yerr=_error(accuracy), color=style["color"], lw=1, capsize=2)
    ax.axhline(0.5, color="#888888", lw=1, ls="--")
    place = ax.get_yaxis_transform()  # x in shares of the width, y in accuracies
    ax.text(0.99, 0.505, "chance", fontsize=8, color="#666666", ha="right", va="bottom", transform=place)
    ax.set_xticks(range(len(turns)), turns)
    ax.set_xlabel("user turn")
    ax.set_ylabel("accuracy")
    ax.set_ylim(min(0.4, ax.get_ylim()[0]), 1.02)
    ax.legend(frameon=False, fontsize=9)
    return figure


def _calibration(evaluation: Evaluation) -> Figure | None:
    rows = [row for row in evaluation.discriminators if row.calibration.num]
    if not rows:
        return None
    names = [s.name for s in evaluation.simulators]
    figure, (ax,) = new_figure(4.6, 4.2)
    ax.plot([0, 1], [0, 1], color="#888888", lw=1, ls="--")
    for row in rows:
        bins = [b for b in row.calibration.bins if b.num >= FEW]
        error = row.calibration.expected_error
        label = row.name if error is None else f"{row.name} (ECE {error:.2f})"
        x, y = [b.mean_probability or 0.0 for b in bins], [b.share_real or 0.0 for b in bins]
        ax.plot(x, y, lw=1.2, ms=5, label=label, **look(names.index(row.name)))
    ax.set_xlabel(f"P(real) of the discriminator, bins of at least {FEW} decisions", fontsize=9)
    ax.set_ylabel("share of real sessions")
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1)
    ax.legend(frameon=False, fontsize=9)
    return figure


def _embeddings(evaluation: Evaluation) -> Figure | None:
    points = [p for p in evaluation.embeddings.points if p.shown] if evaluation.embeddings else []
    if not points:
        return None
    names = [s.name for s in evaluation.simulators]
    real = {p.context_id: p for p in points if p.name == REAL}
    figure, (ax,) = new_figure(7.2, 6.0)
    for name in [n for n in names if any(p.name == n for p in points)]:
        style, simulated = look(names.index(name)), [p for p in points if p.name == name]
        for p in simulated:
            if (own := real.get(p.context_id)) is not None:
                ax.plot([p.x, own.x], [p.y, own.y], color=style["color"], lw=0.5, alpha=0.3, zorder=1)
        x, y = [p.x for p in simulated], [p.y for p in simulated]
        ax.scatter(x, y, s=22, alpha=0.8, lw=0, label=name, zorder=2, **style)
    x, y = [p.x for p in real.values()], [p.y for p in real.values()]
    ax.scatter(x, y, s=90, color=REAL_COLOUR, marker="*", lw=0, label=REAL, zorder=3)
    ax.axis("off")  # large distances in a t-SNE plane have no meaning
    figure.legend(loc="outside lower center", ncols=min(6, len(names) + 1), frameon=False, fontsize=9)
    return figure


def _chatbots(evaluation: Evaluation) -> Figure | None:
    table = evaluation.validity
    rows = [(i, row) for i, row in enumerate(table.rows) if row.correlation.num >= 2][:MAX_PANELS]
    if not rows:
        return None
    columns = min(3, len(rows))
    height = math.ceil(len(rows) / columns)
    figure, axes = new_figure(3.3 * columns + 0.4, 3.2 * height + 0.2, height, columns)
    top = max(
        (r.rate.estimate.value or 0.0) + (r.rate.standard_error or 0.0)
        for r in (*table.real, *(r for _, row in rows for r in row.rates))
    )
    top = 108 * top or 1.0
    for ax, (i, row) in zip(axes, rows, strict=False):
        ax.plot([0, top], [0, top], color="#aaaaaa", lw=1, ls="--")
        for real, simulated in zip(table.real, row.rates, strict=True):
            x, y = real.rate.estimate.value, simulated.rate.estimate.value
            if x is not None and y is not None:
                xerr, yerr = 100 * (real.rate.standard_error or 0.0), 100 * (simulated.rate.standard_error or 0.0)
                ax.errorbar(100 * x, 100 * y, xerr=xerr, yerr=yerr, ms=4, lw=0.8, **look(i))
        c = row.correlation
        subtitle = "no correlation" if c.r is None else f"r = {c.r:.2f}, p = {c.p:.2g}, n = {c.num}"
        ax.set_title(f"{row.name}\n{subtitle}", fontsize=10)
        ax.set_xlim(0, top)
        ax.set_ylim(0, top)
        ax.set_aspect("equal")
    for ax in axes[len(rows) :]:
        ax.set_visible(False)
    figure.supxlabel("issue rate with real users, % of chatbot messages (bars: standard error)", fontsize=9)
    figure.supylabel("with simulated users, %", fontsize=9)
    return figure


def _issue_rates(evaluation: Evaluation) -> Figure | None:
    table = evaluation.issues
    rows = [(-1, table.real), *enumerate(table.rows)]
    rows = [(i, row) for i, row in rows if row.rate.estimate.value is not None]
    if len(rows) < 2:
        return None
    figure, (ax,) = new_figure(6.4, 0.42 * len(rows) + 1.1)
    real = table.real.rate.estimate
    if real.low is not None and real.high is not None:
        ax.axvspan(100 * real.low, 100 * real.high, color="#dddddd", lw=0, zorder=0)
    for place, (i, row) in enumerate(rows):
        style = {"color": REAL_COLOUR, "marker": "*"} if i < 0 else look(i)
        value = 100 * (row.rate.estimate.value or 0.0)
        error = row.rate.standard_error
        ax.errorbar(value, place, xerr=None if error is None else 100 * error, ms=7, capsize=3, lw=1.2, **style)
        ax.annotate(f"{value:.1f}", (value, place), (0, 7), textcoords="offset points", ha="center", fontsize=8)
    ax.set_yticks(range(len(rows)), [row.name for _, row in rows])
    ax.set_ylim(len(rows) - 0.4, -0.7)
    ax.set_xlim(left=0)
    ax.set_xlabel(
        "chatbot messages with an issue, % (bars: standard error; band: 95 % interval of the real rate)", fontsize=9
    )
    return figure


def shown_deltas(evaluation: Evaluation) -> IssueRow | None:
    """Returns the simulator that Figure 4 shows: the one with the lowest divergence, or None without divergences."""
    known = [
        (row.divergence.kl, i, row)
        for i, row in enumerate(evaluation.issues.rows)
        if row.divergence and row.divergence.kl is not None
    ]
    return min(known)[2] if known else None


def _deltas(evaluation: Evaluation) -> Figure | None:
    row = shown_deltas(evaluation)
    if row is None:
        return None
    items = sorted(row.deltas.items(), key=lambda item: -abs(item[1]))[:MAX_DELTAS]
    items.sort(key=lambda item: item[1])
    figure, (ax,) = new_figure(7.2, 0.3 * len(items) + 1.1)
    values = [100 * value for _, value in items]
    ax.barh(range(len(items)), values, color=[COLOURS[1] if v > 0 else COLOURS[0] for v in values], height=0.65)
    ax.set_yticks(range(len(items)), [name.replace("_", " ") for name, _ in items])
    ax.axvline(0, color=REAL_COLOUR, lw=0.8)
    ax.set_xlabel(f"share of {row.name}'s issues minus share of real ones, percentage points", fontsize=9)
    return figure


def _actions(evaluation: Evaluation) -> Figure | None:
    table = evaluation.actions
    rows = [(-1, table.real), *enumerate(table.rows)]
    rows = [(i, row) for i, row in rows if row.rates.num_messages]
    groups = [g for g in ("bad", "good") if g in table.groups]
    if len(rows) < 2 or not groups:
        return None
    num = max(len(table.groups[g]) for g in groups)
    figure, axes = new_figure(5.0 * len(groups), (0.13 * len(rows) + 0.16) * num + 1.2, 1, len(groups))
    for ax, group in zip(axes, groups, strict=True):
        ids = table.groups[group]
        for place, (i, row) in enumerate(rows):
            shift = 0.7 * ((place + 0.5) / len(rows) - 0.5)
            style = {"color": REAL_COLOUR, "marker": "*"} if i < 0 else look(i)
            rates = [row.rates.rates[a] for a in ids]
            ax.errorbar(
                [100 * (r.rate or 0.0) for r in rates],
                [y + shift for y in range(len(ids))],
                xerr=[100 * (r.standard_error or 0.0) for r in rates],
                ls="none",
                ms=6 if i < 0 else 4,
                lw=1,
                label=row.name,
                **style,
            )
        for y in range(1, len(ids)):
            ax.axhline(y - 0.5, color="#eeeeee", lw=0.8, zorder=0)
        ax.set_yticks(range(len(ids)), [a.replace("_", " ") for a in ids])
        ax.set_ylim(len(ids) - 0.5, -0.5)
        ax.set_xlim(left=0)
        ax.set_title({"bad": "negative indicators", "good": "positive indicators"}[group], fontsize=10)
        ax.set_xlabel("user messages, % (bars: standard error)", fontsize=9)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(6, len(rows)), frameon=False, fontsize=9)
    return figure
