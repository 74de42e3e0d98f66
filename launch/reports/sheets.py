"""The tables of an evaluation as rows and columns, for both the CSV files and the report.

A cell is text, a number, an estimate with its interval, or None for a missing value, which is empty in CSV and a dash
in the report, never a zero.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

from rlenv.evaluation.ab_tests import AbTable, Arms
from rlenv.evaluation.discriminators import Cell, DiscriminatorRow
from rlenv.evaluation.linguistic import TABLE_1
from rlenv.evaluation.statistics.intervals import Estimate
from rlenv.evaluation.statistics.validity import Correlation
from rlenv.evaluation.suite import Evaluation

Value = str | float | int | Estimate | None


@dataclass(frozen=True)
class Sheet:
    """One table."""

    name: str
    """The file name without ``.csv``, and the anchor in the report."""
    columns: tuple[str, ...]
    rows: tuple[tuple[Value, ...], ...]
    percent: tuple[str, ...] = ()
    """Columns that the report shows in per cent; the CSV file has fractions."""
    csv_only: tuple[str, ...] = ()
    """Columns that are only in the CSV file."""


def sheets(evaluation: Evaluation) -> list[Sheet]:
    """Returns all tables that have rows, in the paper's order."""
    result = [
        _subjects(evaluation),
        _linguistic(evaluation),
        _embeddings(evaluation),
        _points(evaluation),
        _discriminators(evaluation.discriminators),
        _calibration(evaluation.discriminators),
        _validity(evaluation),
        _action_distances(evaluation),
        _action_rates(evaluation),
        _issue_rates(evaluation),
        _issue_categories(evaluation),
        _sensitivity(evaluation),
        _chatbots(evaluation),
    ]
    if evaluation.ab:
        result.append(_ab(evaluation.ab))
    return [sheet for sheet in result if sheet.rows]


def to_csv(sheet: Sheet) -> str:
    """Returns the table as CSV; an estimate with an interval has three columns: ``x``, ``x_low``, ``x_high``."""
    wide = [any(isinstance(row[i], Estimate) for row in sheet.rows) for i in range(len(sheet.columns))]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        name
        for column, spread in zip(sheet.columns, wide, strict=True)
        for name in ([column, f"{column}_low", f"{column}_high"] if spread else [column])
    )
    for row in sheet.rows:
        cells: list[str | float | int | None] = []
        for value, spread in zip(row, wide, strict=True):
            if isinstance(value, Estimate):
                cells += [value.value, value.low, value.high]
            else:
                cells += [value, None, None] if spread else [value]
        writer.writerow("" if cell is None else cell for cell in cells)
    return out.getvalue()


def _subjects(evaluation: Evaluation) -> Sheet:
    rows = [
        (card.name, card.num_sessions, card.num_users, card.num_messages, len(card.chatbots), " + ".join(card.members))
        for card in (evaluation.real, *evaluation.simulators)
    ]
    return Sheet("subjects", ("simulator", "sessions", "users", "messages", "chatbots", "pools"), tuple(rows))


def _linguistic(evaluation: Evaluation) -> Sheet:
    table = evaluation.linguistic
    keys = list(table.real.features)
    columns = ["simulator", "sessions"]
    for key in keys:
        columns += [key, f"{key}_median", f"{key}_sd"]
    rows = []
    for row in (table.real, *table.rows):
        cells: list[Value] = [row.name, row.num_sessions]
        for key in keys:
            spread = row.features[key]
            cells += [spread.mean, spread.median, spread.sd]
        rows.append((*cells, row.self_bleu))
    hidden = tuple(c for c in columns if c.endswith(("_median", "_sd")) and not c.startswith(TABLE_1))
    return Sheet("table1_linguistic", (*columns, "self_bleu"), tuple(rows), csv_only=hidden)


def _embeddings(evaluation: Evaluation) -> Sheet:
    table = evaluation.embeddings
    rows: list[tuple[Value, ...]] = []
    for row in (*table.rows, *([table.floor] if table.floor else [])) if table else ():
        cells: list[Value] = [row.name, row.num_sessions, row.accuracy]
        ground = row.grounding
        if ground is None:
            cells += [None] * 4
        else:
            cells += [ground.own_nearest, ground.chance, ground.own_similarity, ground.other_similarity]
        rows.append(tuple(cells))
    columns = (
        "simulator",
        "sessions",
        "neighbour_accuracy",
        "own_context_nearest",
        "chance",
        "similarity_own_context",
        "similarity_other_contexts",
    )
    return Sheet("figure3_embeddings", columns, tuple(rows))


def _points(evaluation: Evaluation) -> Sheet:
    points = evaluation.embeddings.points if evaluation.embeddings else ()
    rows = tuple((p.name, p.session_id, p.context_id, p.x, p.y, "yes" if p.shown else "no") for p in points)
    return Sheet("figure3_points", ("simulator", "session_id", "context_id", "x", "y", "shown"), rows)


def _discriminators(found: Sequence[DiscriminatorRow]) -> Sheet:
    if not found:
        return Sheet("table2_discriminator", (), ())
    cells = list(found[0].cells)
    columns = ["simulator"]
    for cell in cells:
        name = f"turn_{cell}" if cell.isdigit() else cell
        columns += [f"{name}_accuracy", f"{name}_f1", f"{name}_mcc", f"{name}_decisions"]
    columns += ["leak_accuracy", "power_accuracy", "referee_accuracy", "ece", "brier", "unscored_sessions"]
    rows = []
    for row in found:
        values: list[Value] = [row.name]
        for cell in cells:
            c = row.cells[cell]
            values += [c.accuracy, c.f1, c.mcc, c.num_decisions]
        values += [_accuracy(row.leak), _accuracy(row.power), row.referee_accuracy]
        values += [row.calibration.expected_error, row.calibration.brier, row.num_unscored]
        rows.append(tuple(values))
    hidden = tuple(c for c in columns if c.startswith("turn_") and not c.endswith("_accuracy"))
    return Sheet("table2_discriminator", tuple(columns), tuple(rows), csv_only=hidden)


def _accuracy(cell: Cell | None) -> Estimate | None:
    return cell.accuracy if cell else None


def _calibration(found: Sequence[DiscriminatorRow]) -> Sheet:
    rows = tuple(
        (row.name, b.low, b.high, b.num, b.mean_probability, b.share_real)
        for row in found
        for b in row.calibration.bins
    )
    columns = ("simulator", "p_low", "p_high", "decisions", "mean_probability", "share_real")
    return Sheet("calibration", columns, rows)


def _r(found: Correlation) -> Estimate:
    return Estimate(value=found.r, low=found.r_low, high=found.r_high, num=found.num)


def _validity(evaluation: Evaluation) -> Sheet:
    kl = {row.name: row.divergence for row in evaluation.issues.rows}
    rows = []
    for row in evaluation.validity.rows:
        c, d = row.correlation, kl[row.name]
        rows.append(
            (
                row.name,
                c.num,
                _r(c),
                c.p,
                c.spearman,
                c.spearman_p,
                d.kl if d else None,
                d.kl_unsmoothed if d else None,
                ", ".join(row.left_out),
            )
        )
    columns = ("simulator", "chatbots", "pearson_r", "p", "spearman", "spearman_p", "kl", "kl_unsmoothed", "left_out")
    return Sheet("table3_validity", columns, tuple(rows))


def _action_distances(evaluation: Evaluation) -> Sheet:
    table = evaluation.actions
    keys = ("total", *table.groups)
    columns = ["simulator", "messages", *(f"bce_{k}" for k in keys), *(f"excess_{k}" for k in keys)]
    rows = []
    for row in (*table.rows, *([table.floor] if table.floor else [])):
        found = row.distances
        rows.append(
            (row.name, row.rates.num_messages, *(found[k].mean for k in keys), *(found[k].excess for k in keys))
        )
    return Sheet("table4_actions", tuple(columns), tuple(rows))


def _action_rates(evaluation: Evaluation) -> Sheet:
    table = evaluation.actions
    everyone = (table.real, *table.rows)
    columns = ["action", "group"]
    for row in everyone:
        columns += [row.name, f"{row.name}_se"]
    rows = []
    for group, ids in table.groups.items():
        for action in ids:
            cells: list[Value] = [action, group]
            for row in everyone:
                rate = row.rates.rates[action]
                cells += [rate.rate, rate.standard_error]
            rows.append(tuple(cells))
    return Sheet("figure5_action_rates", tuple(columns), tuple(rows), percent=tuple(columns[2:]))


def _issue_rates(evaluation: Evaluation) -> Sheet:
    table = evaluation.issues
    rows = []
    for row in (table.real, *table.rows, *([table.floor] if table.floor else [])):
        d = row.divergence
        rows.append(
            (
                row.name,
                row.rate.num_messages,
                row.rate.estimate,
                row.rate.standard_error,
                d.kl if d else None,
                d.kl_unsmoothed if d else None,
                len(d.only_real) if d else None,
                len(d.only_simulated) if d else None,
            )
        )
    columns = (
        "simulator",
        "chatbot_messages",
        "issue_rate",
        "se",
        "kl",
        "kl_unsmoothed",
        "categories_only_real",
        "categories_only_simulated",
    )
    return Sheet("figure2_issue_rates", columns, tuple(rows), percent=("issue_rate", "se"))


def _issue_categories(evaluation: Evaluation) -> Sheet:
    table = evaluation.issues
    columns = ["category", "real_count"]
    for row in table.rows:
        columns += [f"{row.name}_count", f"{row.name}_delta"]
    rows = []
    for category, count in table.real.counts.items():
        if category in table.unseen:
            continue
        cells: list[Value] = [category, count if table.real.rate.num_messages else None]
        for row in table.rows:
            cells += [row.counts[category] if row.rate.num_messages else None, row.deltas.get(category)]
        rows.append(tuple(cells))
    percent = tuple(c for c in columns if c.endswith("_delta"))
    return Sheet("figure4_issue_categories", tuple(columns), tuple(rows), percent=percent)


def _sensitivity(evaluation: Evaluation) -> Sheet:
    table = evaluation.sensitivity
    rows = tuple(
        (row.name, row.after_issue, row.num_after_issue, row.after_other, row.num_after_other, row.difference)
        for row in (table.real, *table.rows)
    )
    columns = ("simulator", "after_issue", "answers_to_issues", "after_other", "answers_to_others", "difference")
    return Sheet("failure_sensitivity", columns, rows, percent=("after_issue", "after_other", "difference"))


def _chatbots(evaluation: Evaluation) -> Sheet:
    table = evaluation.validity
    columns = ["chatbot"]
    for name in ("real", *(row.name for row in table.rows)):
        columns += [f"{name}_rate", f"{name}_se", f"{name}_sessions"]
    rows = []
    for i, real in enumerate(table.real):
        cells: list[Value] = [real.chatbot]
        for found in (real, *(row.rates[i] for row in table.rows)):
            cells += [found.rate.estimate, found.rate.standard_error, found.num_sessions]
        rows.append(tuple(cells))
    percent = tuple(c for c in columns if c.endswith(("_rate", "_se")))
    return Sheet("figure6_chatbots", tuple(columns), tuple(rows), percent=percent)


def _ab(table: AbTable) -> Sheet:
    columns = ["test", "simulator"]
    for side in ("simulated", "real"):
        columns += [f"{side}_{k}" for k in ("control", "treatment", "z", "p", "clustered_p", "sessions", "needed")]
    columns += ["verdict", "sessions_for_effect"]
    rows = [
        (row.name, row.simulator, *_arms(row.simulated), *_arms(row.real), row.verdict, row.sessions_for_effect)
        for row in table.rows
    ]
    percent = tuple(c for c in columns if c.endswith(("_control", "_treatment")))
    return Sheet("table5_ab", tuple(columns), tuple(rows), percent=percent)


def _arms(arms: Arms | None) -> tuple[Value, ...]:
    if arms is None:
        return (None,) * 7
    test = arms.test
    sessions = f"{arms.num_sessions_control} / {arms.num_sessions_treatment}"
    return (test.control, test.treatment, test.z, test.p, arms.clustered_p, sessions, arms.sessions_needed)
