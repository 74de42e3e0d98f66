"""Writes the caption of each table and figure of a report: its main result in one or two sentences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rlenv.evaluation.linguistic import TABLE_1
from rlenv.evaluation.statistics.intervals import Estimate
from rlenv.evaluation.suite import Evaluation

NO_FIGURES = "There are no figures for this table; see what is missing, below."


def share(estimate: Estimate, digits: int = 1) -> str:
    """Returns a share in per cent with its interval.

    >>> share(Estimate(value=0.05, low=0.04, high=0.061))
    '5.0 % [4.0, 6.1]'
    """
    if estimate.value is None:
        return "unknown"
    text = f"{100 * estimate.value:.{digits}f} %"
    if estimate.low is None or estimate.high is None:
        return text
    return f"{text} [{100 * estimate.low:.{digits}f}, {100 * estimate.high:.{digits}f}]"


def captions(evaluation: Evaluation) -> dict[str, str]:
    """Returns the caption of each table and figure, by name."""
    texts = {
        "table1_linguistic": _linguistic(evaluation),
        "figure3_embeddings": _embeddings(evaluation),
        "table2_discriminator": _discriminators(evaluation),
        "calibration": _calibration(evaluation),
        "table3_validity": _validity(evaluation),
        "figure6_chatbots": _chatbots(evaluation),
        "table4_actions": _actions(evaluation),
        "figure2_issue_rates": _issue_rates(evaluation),
        "figure4_issue_categories": _categories(evaluation),
        "failure_sensitivity": _sensitivity(evaluation),
        "table5_ab": _ab(evaluation),
    }
    return {name: text or NO_FIGURES for name, text in texts.items()}


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
    if not won:
        return ""
    closest_text = "; ".join(f"{name} is closest to real users in {_joined(keys)}" for name, keys in won.items())
    cut = evaluation.linguistic.max_turns
    return f"{closest_text}. {f'All sessions are cut after user message {cut}.' if cut else 'Sessions are not cut.'}"


def _discriminators(evaluation: Evaluation) -> str:
    rows = [row for row in evaluation.discriminators if row.cells["overall"].accuracy.value is not None]
    if not rows:
        return ""
    accuracies = _joined([f"{share(row.cells['overall'].accuracy, 0)} against {row.name}" for row in rows])
    return f"Over all turns the accuracy is {accuracies}; 50 % is chance."


def _embeddings(evaluation: Evaluation) -> str:
    table = evaluation.embeddings
    known = {row.name: v for row in table.rows if (v := row.accuracy.value) is not None} if table else {}
    if table is None or not known:
        return ""
    rows = {row.name: row for row in table.rows}
    best = _nearest(known, 0.5)
    floor = table.floor.accuracy.value if table.floor else None
    text = (
        f"Each session is classified as real or simulated by its nearest neighbour. {best} is closest to the 50 % of "
        f"chance: {share(rows[best].accuracy, 0)} of its and the real sessions are classified correctly"
    )
    text += "." if floor is None else f"; between two halves of the real sessions, {100 * floor:.0f} % are."
    grounded = {row.name: row.grounding for row in table.rows if row.grounding and row.grounding.own_nearest.value}
    if grounded:
        top = max(grounded, key=lambda name: grounded[name].own_nearest.value or 0.0)
        ground = grounded[top]
        text += (
            f" For {share(ground.own_nearest, 0)} of {top}'s sessions the nearest real session is that of the same "
            f"context (chance: {100 * (ground.chance or 0.0):.1f} %)."
        )
    if table.points:
        text += (
            f" The figure is a t-SNE projection of all sessions (perplexity {table.perplexity:g}) and shows up to "
            f"{table.num_shown} of each, with the same contexts where possible; a line connects a session to the real "
            "session of its context."
        )
    return f"{text} Embedded by {table.embedder}."


def _calibration(evaluation: Evaluation) -> str:
    errors = {r.name: e for r in evaluation.discriminators if (e := r.calibration.expected_error) is not None}
    if not errors:
        return ""
    worst = max(errors, key=lambda name: errors[name])
    return f"The expected calibration error is at most {errors[worst]:.2f} ({worst}); on the diagonal it is 0."


def _validity(evaluation: Evaluation) -> str:
    known = {row.name: row.correlation for row in evaluation.validity.rows if row.correlation.r is not None}
    if not known:
        return ""
    best = max(known, key=lambda name: known[name].r or -1)
    c = known[best]
    interval = "" if c.r_low is None else f" [{c.r_low:.2f}, {c.r_high:.2f}]"
    text = f"{best} has the strongest correlation: r = {c.r:.2f}{interval}, p = {c.p:.2g}, {c.num} chatbots."
    reliability = evaluation.validity.reliability
    if reliability is not None:
        text += (
            f" The reliability of the real rates is {reliability:.2f}; because of it, even a perfect simulator is "
            f"expected to reach only r = {reliability**0.5:.2f}."
        )
    return text


def _chatbots(evaluation: Evaluation) -> str:
    left_out = sorted({name for row in evaluation.validity.rows for name in row.left_out})
    number = len(evaluation.validity.real)
    if not left_out:
        return f"All {number} chatbots have sessions with real and with simulated users."
    return f"{len(left_out)} of {number} chatbots lack sessions of some simulator and are left out of its correlation."


def _actions(evaluation: Evaluation) -> str:
    known = {r.name: e for r in evaluation.actions.rows if (e := r.distances["total"].excess) is not None}
    if not known:
        return ""
    best = min(known, key=lambda name: known[name])
    text = f"{best} is closest to the real actions: {known[best]:.4f} above the lowest possible value of Eq. 7"
    floor = evaluation.actions.floor
    if floor and (own := floor.distances["total"].excess) is not None:
        text += f"; between two halves of the real sessions it is {own:.4f}"
    return text + "."


def _issue_rates(evaluation: Evaluation) -> str:
    real = evaluation.issues.real.rate.estimate
    known = {r.name: v for r in evaluation.issues.rows if (v := r.rate.estimate.value) is not None}
    if real.value is None or not known:
        return ""
    best = _nearest(known, real.value)
    closest = f"{best} is closest with {100 * known[best]:.1f} %"
    return f"{share(real)} of the chatbots' messages to real users have an issue; {closest}."


def _categories(evaluation: Evaluation) -> str:
    known = {r.name: r.divergence.kl for r in evaluation.issues.rows if r.divergence and r.divergence.kl is not None}
    if not known:
        return ""
    best = min(known, key=lambda name: known[name])
    text = f"{best} has the lowest divergence, KL = {known[best]:.3f}"
    floor = evaluation.issues.floor
    if floor and floor.divergence and floor.divergence.kl is not None:
        text += f"; between two halves of the real sessions it is {floor.divergence.kl:.3f}"
    spread = evaluation.issues.uniform_share
    return (
        f"{text}. The simulated distribution is smoothed: {100 * spread:g} % of its weight is spread evenly over all "
        "categories, so that no divergence is infinite."
    )


def _sensitivity(evaluation: Evaluation) -> str:
    real, rows = evaluation.sensitivity.real, evaluation.sensitivity.rows
    known = {row.name: v for row in rows if (v := row.difference.value) is not None}
    if real.difference.value is None or not known:
        return ""
    best = _nearest(known, real.difference.value)
    row = next(row for row in rows if row.name == best)
    return (
        f"Real users object in {share(real.after_issue)} of their replies to a message with an issue, and in "
        f"{share(real.after_other)} of their replies to other messages. {best} is closest to that difference with "
        f"{share(row.after_issue)} and {share(row.after_other)}. A simulator with two similar figures does not react "
        "to failures."
    )


def _ab(evaluation: Evaluation) -> str:
    verdicts = [row.verdict for row in evaluation.ab.rows if row.verdict] if evaluation.ab else []
    if not verdicts:
        return ""
    return (
        f"{verdicts.count('agree')} of {len(verdicts)} tests agree in direction with their real counterparts; "
        f"{verdicts.count('reversal')} are significant reversals."
    )
