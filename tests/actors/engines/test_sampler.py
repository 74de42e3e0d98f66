"""Log-probs are those of the distribution that was sampled from, worked by hand."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch

from actors.engines.sampler import Sampler
from rlenv.core.types import Sampling

LOGITS = torch.tensor([0.5, 0.3, 0.2]).log()


def _tokens(sampling: Sampling, n: int) -> Counter[int]:
    sampler = Sampler(sampling)
    return Counter(sampler(LOGITS)[0] for _ in range(n))


def test_tokens_are_drawn_with_the_models_probabilities():
    counts = _tokens(Sampling(seed=1), 4000)
    assert [counts[i] / 4000 for i in range(3)] == pytest.approx([0.5, 0.3, 0.2], abs=0.03)


def test_temperature_is_in_the_logprob():
    token, logprob = Sampler(Sampling(temperature=0.5, seed=3))(LOGITS)
    squares = [0.25, 0.09, 0.04]
    assert logprob == pytest.approx(math.log(squares[token] / sum(squares)), abs=1e-6)


def test_top_k_and_top_p_renormalise_over_what_they_keep():
    for sampling in (Sampling(top_k=2, seed=5), Sampling(top_p=0.6, seed=5)):
        assert set(_tokens(sampling, 200)) == {0, 1}
        token, logprob = Sampler(sampling)(LOGITS)
        assert logprob == pytest.approx(math.log([0.5, 0.3][token] / 0.8), abs=1e-6)


def test_temperature_zero_takes_the_likeliest_at_its_plain_logprob():
    assert Sampler(Sampling(temperature=0))(LOGITS) == (0, pytest.approx(math.log(0.5), abs=1e-6))


def test_equal_seeds_draw_equally_and_others_do_not():
    draws = [[Sampler(Sampling(seed=seed))(torch.zeros(1000))[0] for _ in range(1)] for seed in (7, 7, 8)]
    assert draws[0] == draws[1] != draws[2]
