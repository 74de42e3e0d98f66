"""One sentence to each table and figure: what it says, in words made from its figures alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rlenv.evaluation.linguistic import TABLE_1
from rlenv.evaluation.statistics.intervals import Estimate
from rlenv.evaluation.suite import Evaluation

NOTHING = "Nothing can be said: see what is missing, below."


def share(found: Estimate, digits: int = 1) -> str:
    """Returns a share in per cent with its interval.

    >>> share(Estimate(value=0.05, low=0.04, high=0.061))
    '5.0 % [4.0, 6.1]'
    """
    if found.value is None:
        return "unknown"
    text = f"{100 * found.value:.{digits}f} %"
    if found.low is None or found.high is None:
        return text
    return f"{text} [{100 * found.low:.{digits}f}, {100 * found.high:.{digits}f}]"


def readings(evaluation: Evaluation) -> dict[str, str]:
    """Returns the sentence of each table and figure, by name."""
    made = {
        "table1_linguistic": _linguistic(evaluation),
        "figure3_embeddings": _embeddings(evaluation),
        "table2_discriminator": _discriminators(evaluation),
        "calibration": _calibration(evaluation),
        "table3_validity": _validity(evaluation),
        "figure6_chatbots": _left_out(evaluation),
        "table4_actions": _actions(evaluation),
        "figure2_issue_rates": _issue_rates(evaluation),
        "figure4_issue_categories": _categories(evaluation),
        "failure_sensitivity": _sensitivity(evaluation),
        "table5_ab": _ab(evaluation),
    }
    return {name: sentence or NOTHING for name, sentence in made.items()}


def _nearest(values: Mapping[str, float], target: float) -> str:
    return min(values, key=lambda name: abs(values[name] - target))


def _joined(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + " and " + names[-1] if len(names) > 1 else "".join(names)


def _linguistic(evaluation: Evaluation) -> str:
    closest = evaluation.linguistic.closest
    won: dict[str, list[str]] = {}
    for key in TABLE_1:
        if key in closest:
            won.setdefault(closest[key], []).append({"ttr": "TTR", "bigram": "bigram diversity"}.get(key, key))
    said = "; ".join(f"{name} is closest to real users in {_joined(keys)}" for name, keys in won.items())
    cut = evaluation.linguistic.max_turns
    return (
        f"{said}. {f'All sessions are cut after user message {cut}.' if cut else 'Sessions are whole.'}" if won else ""
    )


def _discriminators(evaluation: Evaluation) -> str:
    rows = [row for row in evaluation.discriminators if row.cells["overall"].accuracy.value is not None]
    if not rows:
        return ""
    said = _joined([f"{share(row.cells['overall'].accuracy, 0)} against {row.name}" for row in rows])
    return f"Over all turns the accuracy is {said}; 50 % is chance."


def _embeddings(evaluation: Evaluation) -> str:
    table = evaluation.embeddings
    known = {row.name: v for row in table.rows if (v := row.accuracy.value) is not None} if table else {}
    if table is None or not known:
        return ""
    rows = {row.name: row for row in table.rows}
    best = _nearest(known, 0.5)
    floor = table.floor.accuracy.value if table.floor else None
    said = (
        f"Whose session it is, the nearest neighbour says rightly for {share(rows[best].accuracy, 0)} of {best}'s and "
        "real sessions, the closest to the 50 % of chance"
    )
    said += "." if floor is None else f"; one half of the real sessions from the other: {100 * floor:.0f} %."
    grounded = {row.name: row.grounding for row in table.rows if row.grounding and row.grounding.own_nearest.value}
    if grounded:
        top = max(grounded, key=lambda name: grounded[name].own_nearest.value or 0.0)
        ground = grounded[top]
        said += (
            f" {share(ground.own_nearest, 0)} of {top}'s sessions have the real session of their own context as the "
            f"nearest real one (chance: {100 * (ground.chance or 0.0):.1f} %)."
        )
    if table.points:
        said += (
            f" The figure shows up to {table.num_shown} sessions of each, of the same contexts if they can be, on "
            f"t-SNE's plane of all (perplexity {table.perplexity:g}); a line leads to a context's real session."
        )
    return f"{said} Embedded by {table.embedder}."


def _calibration(evaluation: Evaluation) -> str:
    errors = {r.name: e for r in evaluation.discriminators if (e := r.calibration.expected_error) is not None}
    if not errors:
        return ""
    worst = max(errors, key=lambda name: errors[name])
    return f"Expected calibration error is at most {errors[worst]:.2f} ({worst}); the diagonal has none."


def _validity(evaluation: Evaluation) -> str:
    known = {row.name: row.correlation for row in evaluation.validity.rows if row.correlation.r is not None}
    if not known:
        return ""
    best = max(known, key=lambda name: known[name].r or -1)
    found = known[best]
    interval = "" if found.r_low is None else f" [{found.r_low:.2f}, {found.r_high:.2f}]"
    said = (
        f"The strongest correlation is {best}'s: r = {found.r:.2f}{interval}, p = {found.p:.2g}, {found.num} chatbots."
    )
    reliability = evaluation.validity.reliability
    if reliability is not None:
        said += (
            f" The real rates themselves have a reliability of {reliability:.2f}: chance in them alone keeps a perfect "
            f"simulator near r = {reliability**0.5:.2f}."
        )
    return said


def _left_out(evaluation: Evaluation) -> str:
    left_out = sorted({name for row in evaluation.validity.rows for name in row.left_out})
    number = len(evaluation.validity.real)
    if not left_out:
        return f"All {number} chatbots were met by real and by simulated users."
    return f"Of {number} chatbots {len(left_out)} were not met on every side, and are left out there."


def _actions(evaluation: Evaluation) -> str:
    known = {r.name: e for r in evaluation.actions.rows if (e := r.distances["total"].excess) is not None}
    if not known:
        return ""
    best = min(known, key=lambda name: known[name])
    said = f"{best} is nearest to the real actions: {known[best]:.4f} above the lowest value that Eq. 7 can take"
    floor = evaluation.actions.floor
    if floor and (own := floor.distances["total"].excess) is not None:
        said += f"; one half of the real sessions is {own:.4f} from the other"
    return said + "."


def _issue_rates(evaluation: Evaluation) -> str:
    real = evaluation.issues.real.rate.estimate
    known = {r.name: v for r in evaluation.issues.rows if (v := r.rate.estimate.value) is not None}
    if real.value is None or not known:
        return ""
    best = _nearest(known, real.value)
    near = f"{best} comes nearest with {100 * known[best]:.1f} %"
    return f"{share(real)} of the chatbots' messages to real users have an issue; {near}."


def _categories(evaluation: Evaluation) -> str:
    known = {r.name: r.divergence.kl for r in evaluation.issues.rows if r.divergence and r.divergence.kl is not None}
    if not known:
        return ""
    best = min(known, key=lambda name: known[name])
    said = f"{best} has the lowest divergence, KL = {known[best]:.3f}"
    floor = evaluation.issues.floor
    if floor and floor.divergence and floor.divergence.kl is not None:
        said += f"; one half of the real sessions has {floor.divergence.kl:.3f} from the other"
    spread = evaluation.issues.uniform_share
    return f"{said}. {100 * spread:g} % of the simulated issues are spread over all, so that none is infinitely far."


def _sensitivity(evaluation: Evaluation) -> str:
    real, rows = evaluation.sensitivity.real, evaluation.sensitivity.rows
    known = {row.name: v for row in rows if (v := row.difference.value) is not None}
    if real.difference.value is None or not known:
        return ""
    best = _nearest(known, real.difference.value)
    row = next(row for row in rows if row.name == best)
    return (
        f"Real users object in {share(real.after_issue)} of their answers to a message with an issue, and in "
        f"{share(real.after_other)} of those to others; {best} comes nearest to that difference with "
        f"{share(row.after_issue)} and {share(row.after_other)}. A simulator whose two figures are alike objects by "
        "chance, not to the failure."
    )


def _ab(evaluation: Evaluation) -> str:
    verdicts = [row.verdict for row in evaluation.ab.rows if row.verdict] if evaluation.ab else []
    if not verdicts:
        return ""
    return (
        f"Of {len(verdicts)} tests with real counterparts {verdicts.count('agree')} agree in direction, and "
        f"{verdicts.count('reversal') or 'none'} is a significant reversal."
    )
