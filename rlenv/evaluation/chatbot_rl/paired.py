"""Compares a chatbot before and after its training on the same contexts, users and seeds (Table 5's test and others).

The z-test treats messages as independent, as the paper does. Messages of a conversation are not independent, nor are
conversations of a context, so the verdict is based on the cluster-robust test of the paired contexts. There is one row
per group of users; its last column says whether the gain with the training users carries over to the others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Literal

import numpy as np
from scipy import stats

from rlenv.core.errors import ConfigError
from rlenv.core.types import Record, Session
from rlenv.evaluation.ab_tests import Arms, compare_arms
from rlenv.evaluation.chatbot_rl.figures import Terms, by_context, measured, terms_of
from rlenv.evaluation.chatbot_rl.records import EvaluationEpisode, EvaluationSet, Measured, Users
from rlenv.evaluation.statistics.intervals import Estimate, estimate_ratio_difference, ratio_difference_standard_error

BEFORE, AFTER = "before", "after"
MIN_CONTEXTS = 2
Verdict = Literal["better", "not shown", "worse"]
"""Of the issue rate at the level of the test; "better" is lower."""
Carried = Literal["yes", "not shown", "reversed", "nothing to carry"]
"""Whether a group that the chatbot was not trained with is better too, given that a training group is."""


class Change(Record):
    """One figure before and after."""

    name: str
    """As in ``UserFigures``; a category is ``issues/NAME``, an ending ``endings/WHO: WHY``."""
    before: Measured
    after: Measured
    delta: Estimate
    """After minus before; its interval resamples contexts, before and after together."""
    p: float | None
    """Two-sided, of delta over its cluster-robust standard error, t with (contexts - 1) degrees of freedom."""
    p_holm: float | None = None
    """Of a category: corrected for the number of categories (Holm, 1979)."""


class UsersRow(Record):
    """The changes for one group of users."""

    users: Users
    num_pairs: int
    num_contexts: int
    num_dropped: int
    """Pairs in which a conversation failed."""
    issue_test: Arms | None
    """Table 5's z-test with *before* as control; None if a side has no message of the chatbot."""
    issue_rate: Change
    categories: tuple[Change, ...]
    """Of the issues that occur, the largest change first."""
    figures: tuple[Change, ...]
    """Reward, turns, length, diversity."""
    endings: tuple[Change, ...]
    verdict: Verdict
    carried: Carried | None
    """None for training users, and where there are none."""
    share_kept: float | None
    """Change of the issue rate over that with the training users; None where that is no gain."""


class PairedEvaluation(Record):
    """The comparison, one row a group of users."""

    rows: tuple[UsersRow, ...]
    alpha: float


def paired_evaluation(sets: Sequence[EvaluationSet], *, alpha: float = 0.05, seed: int = 0) -> PairedEvaluation:
    """Returns the changes for every group of users.

    Args:
        sets: one set per group of users, with or without the training users.
        alpha: two-sided level of the verdicts.
        seed: seed of the intervals.

    Raises:
        ConfigError: the conversations are not paired; all problems of all groups are reported.
    """
    problems = [problem for one in sets for problem in unpaired(one)]
    names = Counter(one.users.name for one in sets)
    problems += [f"two groups of users are named {name!r}; name them apart" for name, n in names.items() if n > 1]
    if problems or not sets:
        raise ConfigError("\n".join(problems) or "there is no group of users to evaluate with")
    rows = [_row(one, alpha, seed) for one in sets]
    gains = [row for row in rows if row.users.kind == "training"]
    return PairedEvaluation(rows=tuple(_with_transfer(row, gains) for row in rows), alpha=alpha)


def unpaired(one: EvaluationSet) -> list[str]:
    """Returns the reasons why before and after cannot be compared pair by pair; empty if they can."""
    name, problems = one.users.name, []
    keys = {side: [episode.key for episode in getattr(one, side)] for side in (BEFORE, AFTER)}
    for side, found in keys.items():
        twice = [key for key, n in Counter(found).items() if n > 1]
        if twice:
            problems.append(f"{len(twice)} conversations are there twice {side}, first {_told(twice[0])}")
    for side, other in ((BEFORE, AFTER), (AFTER, BEFORE)):
        alone = sorted(set(keys[side]) - set(keys[other]))
        if alone:
            hint = "hold both with the same contexts, users and seeds; a failed one is a record with its failure"
            problems.append(f"{len(alone)} conversations are there {side} only, first {_told(alone[0])}; {hint}")
    if problems:
        return [f"{name}: {problem}" for problem in problems]
    pairs = _paired(one)
    for b, a in pairs:
        problems += [f"{_told(b.key)}: {what} differs between before and after" for what in _differing(b, a)]
        for side, episode in ((BEFORE, b), (AFTER, a)):
            bare = sum(m.role == "assistant" and m.issues is None for m in episode.messages)
            if bare:
                problems.append(f"{_told(b.key)}: {bare} chatbot messages {side} carry no issues; label them first")
    if not problems and len({b.context_id for b, _ in pairs}) < MIN_CONTEXTS:
        problems.append(f"{len(pairs)} pairs without a failure, expected pairs of {MIN_CONTEXTS} contexts or more")
    return [f"{name}: {problem}" for problem in problems]


def _told(key: tuple[str, str, int]) -> str:
    return f"context {key[0]} with {key[1]} under seed {key[2]}"


def _paired(one: EvaluationSet) -> list[tuple[EvaluationEpisode, EvaluationEpisode]]:
    after = {episode.key: episode for episode in one.after}
    pairs = [(episode, after[episode.key]) for episode in one.before]
    return [(b, a) for b, a in pairs if b.failure is None and a.failure is None]


def _differing(before: EvaluationEpisode, after: EvaluationEpisode) -> list[str]:
    one, two = before.provenance, after.provenance
    if one is None or two is None:
        return []
    found = ["the context"] if one.context_digest != two.context_digest else []
    return found + (["the user's version"] if one.simulator.key != two.simulator.key else [])


def _row(one: EvaluationSet, alpha: float, seed: int) -> UsersRow:
    pairs = _paired(one)
    before, after = terms_of([b for b, _ in pairs]), terms_of([a for _, a in pairs])
    names = list(dict.fromkeys([*before[0][1], *after[0][1]]))

    def change(name: str) -> Change:
        return _change(name, before, after, seed)

    of_kind = {kind: [change(name) for name in names if name.startswith(f"{kind}/")] for kind in ("issues", "endings")}
    rate = change("issue_rate")
    sessions = [_session(episode, side) for pair in pairs for episode, side in zip(pair, (BEFORE, AFTER), strict=True)]
    return UsersRow(
        users=one.users,
        num_pairs=len(pairs),
        num_contexts=len({b.context_id for b, _ in pairs}),
        num_dropped=len(one.before) - len(pairs),
        issue_test=compare_arms(BEFORE, AFTER, sessions, alpha),
        issue_rate=rate,
        categories=tuple(sorted(_holm(of_kind["issues"]), key=lambda c: (-abs(c.delta.value or 0.0), c.name))),
        figures=tuple(change(name) for name in names if "/" not in name and name != "issue_rate"),
        endings=tuple(of_kind["endings"]),
        verdict=_verdict(rate, alpha),
        carried=None,
        share_kept=None,
    )


def _change(
    name: str, before: list[tuple[EvaluationEpisode, Terms]], after: list[tuple[EvaluationEpisode, Terms]], seed: int
) -> Change:
    one, two = by_context(before, name), by_context(after, name)
    if not any(under for _, under in one.values()):  # a category or an ending that only one side has
        one = _never(before, name)
    if not any(under for _, under in two.values()):
        two = _never(after, name)
    columns = tuple(([sums[c][0] for c in one], [sums[c][1] for c in one]) for sums in (one, two))
    delta = estimate_ratio_difference(*columns, seed=seed)
    p = paired_p(delta, ratio_difference_standard_error(*columns))
    return Change(name=name, before=measured(one.values()), after=measured(two.values()), delta=delta, p=p)


def paired_p(delta: Estimate, error: float | None) -> float | None:
    """Returns the two-sided p-value of a change over its standard error, by the t-distribution.

    If all contexts change alike, the error is 0 and the sign test is used; None if nothing changed.
    """
    if error is None or delta.value is None:
        return None
    if error < 1e-12:
        return float(0.5 ** (delta.num - 1)) if delta.value else None
    return float(2 * stats.t.sf(abs(delta.value) / error, delta.num - 1))


def _never(terms: list[tuple[EvaluationEpisode, Terms]], name: str) -> dict[str, tuple[float, float]]:
    """Returns the parts of a category or ending that never occurs: 0 of all messages or conversations."""
    if not name.startswith(("issues/", "endings/")):
        return by_context(terms, name)
    whole = by_context(terms, "issue_rate" if name.startswith("issues/") else "turns")
    return {context: (0.0, under) for context, (_, under) in whole.items()}


def _holm(changes: Sequence[Change]) -> list[Change]:
    """Returns the changes with Holm's step-down correction over those that have a p-value."""
    known = sorted((c.p, i) for i, c in enumerate(changes) if c.p is not None)
    corrected = np.minimum(1.0, np.maximum.accumulate([(len(known) - k) * p for k, (p, _) in enumerate(known)]))
    holm = {i: float(p) for (_, i), p in zip(known, corrected, strict=True)}
    return [c.model_copy(update={"p_holm": holm.get(i)}) for i, c in enumerate(changes)]


def _verdict(rate: Change, alpha: float) -> Verdict:
    if rate.p is None or rate.p >= alpha or not rate.delta.value:
        return "not shown"
    return "better" if rate.delta.value < 0 else "worse"


def _with_transfer(row: UsersRow, gains: Sequence[UsersRow]) -> UsersRow:
    """Returns the row with the verdict on the carry-over; with several training groups, their mean is used."""
    if row.users.kind == "training" or not gains:
        return row
    if all(gain.verdict != "better" for gain in gains):
        return row.model_copy(update={"carried": "nothing to carry"})
    carried: dict[Verdict, Carried] = {"better": "yes", "not shown": "not shown", "worse": "reversed"}
    gain = float(np.mean([g.issue_rate.delta.value or 0.0 for g in gains]))
    kept = (row.issue_rate.delta.value or 0.0) / gain if gain < 0 else None
    return row.model_copy(update={"carried": carried[row.verdict], "share_kept": kept})


def _session(episode: EvaluationEpisode, chatbot: str) -> Session:
    session_id = f"{episode.context_id}/{episode.counterpart}/{episode.seed}/{chatbot}"
    return Session(session_id=session_id, user_id=episode.user_id, chatbot=chatbot, messages=episode.messages)
