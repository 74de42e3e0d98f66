"""The scores of resampled decisions are those of the decisions themselves."""

import itertools

import numpy as np
import pytest

from rlenv.discriminator.classification import classification_scores
from rlenv.evaluation.discriminators import _scores_of_counts


def test_scores_of_resamples_are_the_classification_scores_of_as_many_decisions():
    counts = np.array(list(itertools.product((0, 1, 3), repeat=4))[1:], dtype=float)
    found = _scores_of_counts(counts)
    for i, row in enumerate(counts.astype(int)):
        kinds = [(True, True), (False, True), (True, False), (False, False)]
        decisions = [kind for kind, count in zip(kinds, row, strict=True) for _ in range(count)]
        scores = classification_scores([real for real, _ in decisions], [called for _, called in decisions])
        for key, values in found.items():
            expected = getattr(scores, key)
            assert np.isnan(values[i]) if expected is None else values[i] == pytest.approx(expected), (row, key)
