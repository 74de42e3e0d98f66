"""The tables that a study adds to those of ``rlenv evaluate``: goals, judges, and the amount of SFT data.

They are made from evaluations alone. Independent of files and phases.
"""

from __future__ import annotations

from collections.abc import Sequence

from launch.reports.sheets import Sheet, Value
from launch.study.config import AGGREGATE, GoalsConfig
from rlenv.core.types import Record
from rlenv.evaluation.linguistic import TABLE_1
from rlenv.evaluation.statistics.intervals import Estimate
from rlenv.evaluation.suite import Evaluation
from rlenv.judges.compare import LabelAgreement

LINGUISTIC_NAMES = {"entropy": "word entropy", "ttr": "type-token ratio", "bigram": "bigram diversity"}


class Goal(Record):
    """One goal of the study, and whether it is met."""

    name: str
    asked: str
    """The target, for example "at least 0.9"."""
    value: float | None
    """None where it cannot be computed; the goal is then missed."""
    met: bool
    said: str = ""
    """The figures that the value is computed from."""


def gap_closed(real: float, before: float, after: float) -> float | None:
    """Returns the share of a distance to the real figure that is closed: below 0 where it grew, None where it was 0.

    >>> gap_closed(6.0, 5.0, 5.8)
    0.8
    >>> gap_closed(6.0, 5.0, 7.5)
    -0.5
    """
    distance = abs(before - real)
    return None if distance == 0 else round(1 - abs(after - real) / distance, 12)


def goals(evaluation: Evaluation, asked: GoalsConfig, base: str, last: str) -> list[Goal]:
    """Returns every goal with its value and whether it is met.

    Args:
        evaluation: the evaluation of all simulators against the truth.
        asked: the targets.
        base: name of the simulator before adversarial training.
        last: name of the simulator after it.
    """
    accuracy = {r.name: r.cells["overall"].accuracy.value for r in evaluation.discriminators}
    result = [
        _goal(f"discriminator accuracy against {base}", accuracy.get(base), asked.accuracy_before, above=True),
        _goal(f"discriminator accuracy against {last}", accuracy.get(last), asked.accuracy_after, above=False),
    ]
    r = {row.name: row.correlation.r for row in evaluation.validity.rows}
    kl = {row.name: row.divergence.kl if row.divergence else None for row in evaluation.issues.rows}
    for name in (last, AGGREGATE):
        result.append(_goal(f"Pearson r over the chatbots, {name}", r.get(name), asked.pearson_r, above=True))
        result.append(_goal(f"KL of issue categories, {name}", kl.get(name), asked.kl, above=False))
    for key in TABLE_1:
        result.append(_diversity(evaluation, key, asked.diversity, base, last))
    return result


def _goal(name: str, value: float | None, target: float, *, above: bool, figures: str = "") -> Goal:
    met = value is not None and (value >= target if above else value <= target)
    return Goal(name=name, asked=f"{'at least' if above else 'at most'} {target:g}", value=value, met=met, said=figures)


def _diversity(evaluation: Evaluation, key: str, target: float, base: str, last: str) -> Goal:
    table = evaluation.linguistic
    means = {row.name: row.features[key].mean.value for row in (table.real, *table.rows)}
    real, before, after = means[table.real.name], means[base], means[last]
    if real is None or before is None or after is None:
        return _goal(f"gap closed: {LINGUISTIC_NAMES[key]}", None, target, above=True)
    figures = f"real {real:.3f}, {base} {before:.3f}, {last} {after:.3f}"
    closed = gap_closed(real, before, after)
    return _goal(f"gap closed: {LINGUISTIC_NAMES[key]}", closed, target, above=True, figures=figures)


def goals_sheet(goals: Sequence[Goal]) -> Sheet:
    """Returns the goals as a table."""
    rows = tuple((g.name, g.asked, g.value, "met" if g.met else "missed", g.said) for g in goals)
    return Sheet("goals", ("goal", "asked", "value", "verdict", "of"), rows)


def agreement_sheet(agreements: Sequence[LabelAgreement]) -> Sheet:
    """Returns the agreement of the judges of simulated sessions with the truth, on real sessions."""
    rows = tuple(
        (
            row.kind,
            row.first,
            row.agreement.kappa,
            row.agreement.observed,
            row.agreement.num_first,
            row.agreement.num_second,
            row.num_both,
        )
        for row in agreements
    )
    columns = ("kind", "label", "kappa", "observed_agreement", "true", "judged", "both")
    return Sheet("judge_agreement", columns, rows)


def like_with_like_sheet(against_truth: Evaluation, against_judged: Evaluation, judged: Evaluation) -> Sheet:
    """Returns each simulator against the true labels and against the judges' labels of the real sessions.

    Args:
        against_truth: the simulators against the real sessions with their true labels.
        against_judged: the simulators against the real sessions with the judges' labels.
        judged: the real sessions with the judges' labels, as a simulator, against those with the true labels. It shows
            the error of the judges alone.
    """
    rows = []
    for by_truth, by_judges in ((judged, None), (against_truth, against_judged)):
        for i, card in enumerate(by_truth.simulators):
            cells: list[Value] = [card.name, by_truth.issues.rows[i].rate.estimate]
            for evaluation in (by_truth, by_judges):
                cells += _distances(evaluation, i) if evaluation else [None] * 3
            rows.append(tuple(cells))
    columns = (
        "simulator",
        "issue_rate",
        *(f"{k}_{side}" for side in ("truth", "judged") for k in ("r", "kl", "excess")),
    )
    return Sheet("like_with_like", columns, tuple(rows), percent=("issue_rate",))


def _distances(evaluation: Evaluation, i: int) -> list[Value]:
    correlation = evaluation.validity.rows[i].correlation
    divergence = evaluation.issues.rows[i].divergence
    return [
        Estimate(value=correlation.r, low=correlation.r_low, high=correlation.r_high, num=correlation.num),
        divergence.kl if divergence else None,
        evaluation.actions.rows[i].distances["total"].excess,
    ]


def sizes_sheet(evaluation: Evaluation, sizes: Sequence[int]) -> Sheet:
    """Returns diversity and alignment by the number of SFT sessions (Table 1).

    Args:
        evaluation: the evaluation of the base simulators, in the order of ``sizes``.
        sizes: their numbers of SFT sessions.
    """
    table, rows = evaluation.linguistic, []
    for i, row in enumerate((table.real, *table.rows)):
        cells: list[Value] = [row.name, sizes[i - 1] if i else None, row.num_sessions]
        cells += [row.features[key].mean for key in TABLE_1]
        issues = (evaluation.issues.real, *evaluation.issues.rows)[i]
        cells.append(issues.rate.estimate)
        floor = (evaluation.actions.floor, evaluation.issues.floor)
        actions, divergence = (evaluation.actions.rows[i - 1], issues.divergence) if i else (floor[0], None)
        if not i and floor[1]:
            divergence = floor[1].divergence
        cells.append(actions.distances["total"].excess if actions else None)
        cells.append(divergence.kl if divergence else None)
        rows.append(tuple(cells))
    columns = ("simulator", "sft_sessions", "sessions", *TABLE_1, "issue_rate", "action_excess", "kl")
    return Sheet("sft_sizes", columns, tuple(rows), percent=("issue_rate",))
