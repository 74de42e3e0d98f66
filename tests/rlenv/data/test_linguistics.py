"""Table 1's figures: by hand, and against scipy."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest
from scipy.stats import entropy

from rlenv.core.types import Message, Session
from rlenv.data.linguistics import (
    bigram_diversity,
    distinct_n,
    diversity,
    session_diversity,
    type_token_ratio,
    word_entropy,
    words,
)


def said(*texts: str, session_id: str = "s") -> Session:
    messages = [
        m for text in texts for m in (Message(role="user", content=text), Message(role="assistant", content="ok"))
    ]
    return Session(session_id=session_id, messages=tuple(messages))


def test_words_are_lower_case_keep_inner_apostrophes_and_drop_punctuation():
    assert words("Don't, DON'T -- naïve 2nd time...") == ["don't", "don't", "naïve", "2nd", "time"]
    assert words("") == words("?! ...") == []


def test_entropy_by_hand_is_in_bits_of_word_shares():
    # shares 1/2, 1/4, 1/4: 1/2 x 1 + 1/4 x 2 + 1/4 x 2
    assert word_entropy(["so", "so", "tired", "now"]) == 1.5
    assert word_entropy(["so"]) == 0.0
    assert math.isnan(word_entropy([]))


def test_entropy_is_scipys_in_base_two():
    rng = random.Random(3)
    for size in (1, 2, 17, 400):
        tokens = [f"w{int(rng.paretovariate(1))}" for _ in range(size)]
        counts = list(Counter(tokens).values())
        assert word_entropy(tokens) == pytest.approx(float(entropy(counts, base=2)), abs=1e-12)


def test_type_token_ratio_and_bigrams_by_hand():
    tokens = words("I am so so tired. I am so done")
    assert type_token_ratio(tokens) == 5 / 9  # i am so tired done
    # i-am am-so so-so so-tired tired-i i-am am-so so-done: 6 different of 8
    assert bigram_diversity([tokens]) == 6 / 8


def test_bigrams_do_not_run_over_the_end_of_a_message():
    assert bigram_diversity([["a", "b"], ["c", "d"]]) == 1.0
    assert bigram_diversity([["a", "b"], ["a", "b"]]) == 0.5  # b-a is no pair
    assert math.isnan(bigram_diversity([["a"], ["b"]]))


def test_table_1_has_distinct_1_and_distinct_2():
    messages = [["i", "am", "so", "tired"], ["i", "am", "so", "tired"], ["ok"]]
    assert distinct_n(messages, 1) == type_token_ratio([w for m in messages for w in m]) == 5 / 9
    assert distinct_n(messages, 2) == bigram_diversity(messages) == 3 / 6
    assert distinct_n(messages, 3) == 2 / 4
    assert math.isnan(distinct_n([["a"]], 2))


def test_a_sessions_figures_read_the_users_messages_alone():
    assert session_diversity(said("so so tired", "now")) == {
        "entropy": 1.5, "ttr": 0.75, "bigram": 1.0, "turns": 2.0, "words": 4.0
    }  # fmt: skip


def test_means_medians_and_sample_deviations_are_over_sessions_and_skip_those_without_words():
    sessions = [said("a a a a"), said("a b"), said("a b c d"), said("...")]
    figures = diversity(sessions)
    assert figures["ttr_mean"] == pytest.approx((0.25 + 1 + 1) / 3)
    assert figures["ttr_median"] == 1.0
    assert figures["ttr_sd"] == pytest.approx(math.sqrt(((0.25 - 0.75) ** 2 + 2 * 0.25**2) / 2))
    assert figures["entropy_mean"] == pytest.approx((0 + 1 + 2) / 3)
    assert figures["turns_mean"] == 1.0 and figures["words_mean"] == 10 / 4
    assert math.isnan(diversity([])["ttr_mean"]) and math.isnan(diversity(sessions[:1])["ttr_sd"])
