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
    spaced,
    type_token_ratio,
    unspaced_share,
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
        "entropy": 1.5, "ttr": 0.75, "bigram": 1.0, "turns": 2.0, "words": 4.0, "words_per_message": 2.0
    }  # fmt: skip


def test_means_medians_and_sample_deviations_are_over_sessions_and_skip_those_without_words():
    sessions = [said("a a a a"), said("a b"), said("a b c d"), said("...")]
    figures = diversity(sessions)
    assert figures["ttr_mean"] == pytest.approx((0.25 + 1 + 1) / 3)
    assert figures["ttr_median"] == 1.0
    assert figures["ttr_sd"] == pytest.approx(math.sqrt(((0.25 - 0.75) ** 2 + 2 * 0.25**2) / 2))
    assert figures["entropy_mean"] == pytest.approx((0 + 1 + 2) / 3)
    assert figures["turns_mean"] == 1.0 and figures["words_mean"] == figures["words_per_message_mean"] == 10 / 4
    assert math.isnan(diversity([])["ttr_mean"]) and math.isnan(diversity(sessions[:1])["ttr_sd"])


@pytest.mark.parametrize("apostrophe", "'’‘ʼ＇´′")
def test_an_apostrophe_is_one_however_it_is_typed(apostrophe):
    text = "I can't say, don't ask. It isn't so."
    assert words(text.replace("'", apostrophe)) == words(text)
    assert session_diversity(said(text.replace("'", apostrophe))) == session_diversity(said(text))


def test_typographic_quotation_marks_are_no_apostrophes():
    assert words("‘so’ she’s ‘so’") == ["so", "she's", "so"]


def test_ascii_text_has_the_same_words_with_and_without_other_letters_beside_it():
    text = "rock'n'roll_1 'quoted' x' a--b isn't 3.5 don''t"
    assert words(f"{text} é") == [*words(text), "é"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("मैं सो नहीं पाता।", ["मैं", "सो", "नहीं", "पाता"]),  # Hindi: vowel signs are marks
        ("த\u0bc2க்கம் இல்லை", ["த\u0bc2க்கம்", "இல்லை"]),  # Tamil
        ("أنا لا أَنامُ", ["أنا", "لا", "أَنامُ"]),  # Arabic, with vowels
        ("نمی\u200cتوانم بخوابم", ["نمی\u200cتوانم", "بخوابم"]),  # Persian: joined without a blank
        ("我睡不着。OK?", ["我", "睡", "不", "着", "ok"]),
        ("ねむれない コーヒー", ["ね", "む", "れ", "な", "い", "コーヒー"]),
        ("나는 잠을 못 자요", ["나는", "잠을", "못", "자요"]),  # Korean has blanks
        ("นอนไม่หลับ", ["น", "อ", "น", "ไ", "ม่", "ห", "ลั", "บ"]),
        ("Ça m'énerve, l’été", ["ça", "m'énerve", "l'été"]),
        ("\U0001f642 ok\ufe0f", ["ok\ufe0f"]),
    ],
)
def test_words_of_any_script_are_those_of_the_rule(text, expected):
    assert words(text) == expected


def test_equal_letters_are_equal_words_however_they_are_encoded():
    assert words("cafe\u0301 nai\u0308ve") == words("café naïve") == ["café", "naïve"]


def test_a_script_without_blanks_is_told_and_split_for_tools_that_need_blanks():
    assert unspaced_share([said("我睡 ok ok")]) == 0.5
    assert unspaced_share([said("I can’t, हूँ"), said("all ascii")]) == unspaced_share([said("")]) == 0
    assert spaced("can’t 睡着").split() == ["can't", "睡", "着"]
