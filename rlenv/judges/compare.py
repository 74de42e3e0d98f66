"""Measures the agreement of two annotators of the same sessions, whose labels may have different names.

Cohen's kappa by category over the messages that both labelled. A label map translates the names of the first annotator
to those of the second (``rlenv.data.labels``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rlenv.core.errors import DataError, Problem
from rlenv.core.taxonomy import Taxonomy
from rlenv.core.types import Record, Session
from rlenv.data.labels import KIND_OF_ROLE, KINDS, LabelMap


class LabelAgreement(Record):
    """Agreement on one label of the first annotator and the corresponding labels of the second."""

    kind: str
    first: str
    second: str
    """A label of the second annotator, or ``any`` of several that correspond."""
    agreement: Agreement
    num_both: int
    """Messages to which both gave the label."""


def label_agreement(
    first: Sequence[Session],
    second: Sequence[Session],
    label_map: LabelMap | None = None,
    kinds: Sequence[str] = KINDS,
) -> tuple[list[LabelAgreement], dict[str, int]]:
    """Returns the agreement on every label, and the number of messages of each kind that both labelled.

    Without a map, labels are compared by name: all that occur on either side. With a map, each of its labels of the
    first annotator is compared with *any* of the corresponding labels, and with each of these that occurs.

    Args:
        first: labelled sessions.
        second: the same sessions labelled by another annotator; sessions not in both are left out.
        label_map: see ``rlenv.data.labels``.
        kinds: the kinds to compare; leave out those that the second annotator does not label.

    Raises:
        DataError: a session has different messages in the two files.
    """
    pairs = {kind: both for kind, both in _pairs(first, second).items() if kind in kinds}
    rows = []
    for kind, both in pairs.items():
        compared = _compared(both, None if label_map is None else label_map.get(kind, {}))
        for label, name, counterparts in compared:
            a = [label in labels for labels, _ in both]
            b = [any(counterpart in labels for counterpart in counterparts) for _, labels in both]
            num_both = sum(x and y for x, y in zip(a, b, strict=True))
            agreement = cohens_kappa(a, b)
            rows.append(LabelAgreement(kind=kind, first=label, second=name, agreement=agreement, num_both=num_both))
    return rows, {kind: len(both) for kind, both in pairs.items()}


def without_common_labels(
    first: Sequence[Session], second: Sequence[Session], kinds: Sequence[str], taxonomy: Taxonomy, *, by_judge: bool
) -> list[str]:
    """Returns the kinds of which the two annotators share no label name, so that a label map is needed.

    Labels of the taxonomy are one vocabulary, even if the two happen to use different ones of it.

    Args:
        first: as in ``label_agreement``.
        second: as in ``label_agreement``.
        kinds: as in ``label_agreement``.
        taxonomy: the categories.
        by_judge: the second annotator is a judge that uses the taxonomy, whatever it found.
    """
    pairs = _pairs(first, second)
    known = {"actions": set(taxonomy.action_ids()), "issues": set(taxonomy.issue_ids())}
    found = []
    for kind in kinds:
        one, two = ({label for both in pairs[kind] for label in both[side]} for side in (0, 1))
        two |= known[kind] if by_judge else set()
        if one and two and not one & two and not one | two <= known[kind]:
            found.append(kind)
    return found


def self_agreement(first: Sequence[Session], second: Sequence[Session], kinds: Sequence[str] = KINDS) -> list[str]:
    """Returns warnings if the labels of both sides have one source, so that their agreement is no evidence.

    Args:
        first: as in ``label_agreement``.
        second: as in ``label_agreement``.
        kinds: as in ``label_agreement``.
    """
    others = {session.session_id: session for session in second}
    both = [(one, others[one.session_id]) for one in first if one.session_id in others]
    warnings = []
    if both and all(one.messages == two.messages and one.judges == two.judges for one, two in both):
        same = f"NOT EVIDENCE: all labels of the {len(both)} sessions are the same in both files"
        warnings.append(f"{same}; is one a copy of the other?")
    for kind in kinds:
        judges = {side.judges.get(kind) for pair in both for side in pair}
        if len(judges) == 1 and None not in judges:
            warnings.append(f"NOT EVIDENCE: one judge gave the {kind} of both sides ({judges.pop()})")
    return warnings


Both = list[tuple[Sequence[str], Sequence[str]]]


def _pairs(first: Sequence[Session], second: Sequence[Session]) -> dict[str, Both]:
    """Returns for each kind the two sets of labels of every message that both annotators labelled."""
    others = {session.session_id: session for session in second}
    pairs: dict[str, Both] = {"actions": [], "issues": []}
    problems = []
    for session in first:
        other = others.get(session.session_id)
        if other is None:
            continue
        if [(m.role, m.content) for m in session.messages] != [(m.role, m.content) for m in other.messages]:
            hint = "compare labels of the same sessions file"
            came = f"{len(session.messages)} and {len(other.messages)} messages, or other texts"
            problems.append(Problem("sessions", session.session_id, "messages", "the same in both files", came, hint))
            continue
        for one, two in zip(session.messages, other.messages, strict=True):
            kind = KIND_OF_ROLE[one.role]
            labels = getattr(one, kind), getattr(two, kind)
            if labels[0] is not None and labels[1] is not None:
                pairs[kind].append(labels)
    if problems:
        raise DataError(problems)
    return pairs


def _compared(both: Both, mapped: Mapping[str, tuple[str, ...]] | None) -> list[tuple[str, str, tuple[str, ...]]]:
    """Returns for each comparison (label of the first, name for the second's, labels of the second)."""
    if mapped is None:
        names = sorted({label for labels in both for side in labels for label in side})
        return [(name, name, (name,)) for name in names]
    occurring = {label for _, labels in both for label in labels}
    rows: list[tuple[str, str, tuple[str, ...]]] = []
    for label, counterparts in mapped.items():
        several = len(counterparts) > 1
        rows.append((label, "any" if several else counterparts[0], counterparts))
        rows += [(label, one, (one,)) for one in counterparts if several and one in occurring]
    return rows


class Agreement(Record):
    """Agreement of two annotators on one category, over the same messages."""

    kappa: float | None
    """(observed - expected) / (1 - expected); None if both gave the category to all messages or to none."""
    observed: float | None
    """Share of messages on which the annotators agree."""
    num: int
    """Number of messages."""
    num_first: int
    """Messages to which the first annotator gave the category."""
    num_second: int
    """Messages to which the second annotator gave the category."""


def cohens_kappa(first: Sequence[bool], second: Sequence[bool]) -> Agreement:
    """Returns the agreement of two annotators on one category.

    >>> cohens_kappa([True, True, False, False], [True, False, False, False]).kappa
    0.5
    """
    from sklearn.metrics import accuracy_score, cohen_kappa_score

    if len(first) != len(second):
        raise ValueError(f"expected labels of the same messages, got {len(first)} and {len(second)}")
    differ = len({*first, *second}) == 2
    return Agreement(
        kappa=float(cohen_kappa_score(first, second)) if differ else None,
        observed=float(accuracy_score(first, second)) if first else None,
        num=len(first),
        num_first=sum(first),
        num_second=sum(second),
    )


def category_agreement(
    first: Sequence[Sequence[str]], second: Sequence[Sequence[str]], categories: Sequence[str]
) -> dict[str, Agreement]:
    """Returns the agreement on each category, from both annotators' labels of the same messages in the same order.

    Raises:
        ValueError: the numbers of messages differ.
    """
    if len(first) != len(second):
        raise ValueError(f"expected labels of the same messages, got {len(first)} and {len(second)}")
    return {c: cohens_kappa([c in labels for labels in first], [c in labels for labels in second]) for c in categories}
