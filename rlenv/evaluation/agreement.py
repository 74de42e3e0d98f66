"""Agreement of two annotators on the same messages: Cohen's kappa, category by category."""

from __future__ import annotations

from collections.abc import Sequence

from rlenv.types import Record


class Agreement(Record):
    """Two annotators on one category, over the same messages."""

    kappa: float | None
    """(observed - expected) / (1 - expected); None where chance alone would agree on everything."""
    observed: float | None
    """Share of messages on which they say the same."""
    num: int
    num_first: int
    """Messages that the first annotator gave the category."""
    num_second: int


def cohens_kappa(first: Sequence[bool], second: Sequence[bool]) -> Agreement:
    """Returns the agreement of two annotators on one category.

    >>> cohens_kappa([True, True, False, False], [True, False, False, False]).kappa
    0.5
    """
    pairs = list(zip(first, second, strict=True))
    n = len(pairs)
    a, b = sum(x for x, _ in pairs), sum(y for _, y in pairs)
    if not n:
        return Agreement(kappa=None, observed=None, num=0, num_first=0, num_second=0)
    observed = sum(x == y for x, y in pairs) / n
    expected = (a * b + (n - a) * (n - b)) / n**2
    kappa = None if expected == 1 else (observed - expected) / (1 - expected)
    return Agreement(kappa=kappa, observed=observed, num=n, num_first=a, num_second=b)


def category_agreement(
    first: Sequence[Sequence[str]], second: Sequence[Sequence[str]], categories: Sequence[str]
) -> dict[str, Agreement]:
    """Returns the agreement on each category; both annotators saw the same messages, in the same order.

    Raises:
        ValueError: they did not label equally many messages.
    """
    if len(first) != len(second):
        raise ValueError(f"expected labels of the same messages, got {len(first)} and {len(second)}")
    return {c: cohens_kappa([c in labels for labels in first], [c in labels for labels in second]) for c in categories}
