"""The tables of a chatbot's training: groups of users, issue categories, other figures, endings and rounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from launch.reports.sheets import Sheet, Value
from rlenv.evaluation.chatbot_rl.paired import Change, PairedEvaluation, UsersRow
from rlenv.evaluation.chatbot_rl.records import CurvePoint, Measured
from rlenv.evaluation.statistics.intervals import Z_95, Estimate

CHANGE = ("before", "after", "delta", "p")


def chatbot_sheets(paired: PairedEvaluation | None, curve: Sequence[CurvePoint]) -> list[Sheet]:
    """Returns all tables that have rows."""
    rows = paired.rows if paired else ()
    sheets = [
        _users(rows),
        _changes("categories", rows, lambda row: row.categories, percent=True, holm=True),
        _changes("figures", rows, lambda row: row.figures),
        _changes("endings", rows, lambda row: row.endings, percent=True),
        _rounds(curve),
    ]
    return [sheet for sheet in sheets if sheet.rows]


def _users(rows: Sequence[UsersRow]) -> Sheet:
    columns = (
        *("users", "kind", "pairs", "contexts", "dropped", "before", "after", "delta", "z", "z_p", "paired_p"),
        *("verdict", "carried_over", "share_kept"),
    )
    cells: list[tuple[Value, ...]] = []
    for row in rows:
        rate, test = row.issue_rate, row.issue_test.test if row.issue_test else None
        cells.append(
            (
                *(row.users.name, row.users.kind, row.num_pairs, row.num_contexts, row.num_dropped),
                *(rate.before.value, rate.after.value, rate.delta),
                *(test.z if test else None, test.p if test else None, rate.p),
                *(row.verdict, row.carried, row.share_kept),
            )
        )
    return Sheet("users", columns, tuple(cells), percent=("before", "after", "delta", "share_kept"))


def _changes(
    name: str,
    rows: Sequence[UsersRow],
    changes: Callable[[UsersRow], Sequence[Change]],
    *,
    percent: bool = False,
    holm: bool = False,
) -> Sheet:
    columns = ("users", name.removesuffix("s") if name != "categories" else "category", *CHANGE)
    cells: list[tuple[Value, ...]] = []
    for row in rows:
        for change in changes(row):
            label = change.name.split("/", 1)[-1]
            values = (change.before.value, change.after.value, change.delta, change.p)
            cells.append((row.users.name, label, *values, *((change.p_holm,) if holm else ())))
    shown = ("before", "after", "delta") if percent else ()
    return Sheet(name, (*columns, "p_holm") if holm else columns, tuple(cells), percent=shown)


def _rounds(curve: Sequence[CurvePoint]) -> Sheet:
    others = list(dict.fromkeys(name for point in curve for name in point.held_out))
    columns = (
        *("round", "updates", "reward", "issue_rate", *(f"reward {name}" for name in others), "reply_words"),
        *("distinct_2", "sameness", "kl", "entropy", "sampler_gap", "sampler_gap_max", "sampler_kl", "staleness_max"),
        *("failed", "stale", "masked", "tokens_trained", "seconds"),
    )
    cells: list[tuple[Value, ...]] = []
    for p in curve:
        held_out = [_estimate(p.held_out[name].reward) if name in p.held_out else None for name in others]
        train = p.train
        cells.append(
            (
                *(p.round, p.num_updates, _estimate(train.reward), _estimate(train.issue_rate), *held_out),
                *(train.reply_words.value, train.distinct_2.value, train.sameness.value, p.kl, p.entropy),
                *(p.sampler_gap_mean, p.sampler_gap_max, p.sampler_kl, p.staleness_max),
                *(train.num_failed, p.num_stale, p.num_masked, p.trained_tokens, p.update_seconds),
            )
        )
    return Sheet("rounds", columns, tuple(cells), percent=("issue_rate",))


def _estimate(measured: Measured) -> Estimate:
    """Returns a mean with its 95 % interval, from the standard error."""
    value, error = measured.value, measured.standard_error
    if value is None or error is None:
        return Estimate(value=value, num=measured.num)
    return Estimate(value=value, low=value - Z_95 * error, high=value + Z_95 * error, num=measured.num)
