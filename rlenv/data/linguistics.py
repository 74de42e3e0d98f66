"""Lexical statistics of a session's user messages: word entropy, type-token ratio, bigram diversity (Section 4.3.1).

Words are ``\\w+(?:'\\w+)?`` of the lower-cased text; entropy is in bits. Bigrams do not cross the end of a message.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from rlenv.core.types import Session

_WORD = re.compile(r"\w+(?:'\w+)?")


def words(text: str) -> list[str]:
    """Returns the words of a text.

    >>> words("I can't. I CAN'T!")
    ['i', "can't", 'i', "can't"]
    """
    return _WORD.findall(text.lower())


def word_entropy(tokens: Sequence[str]) -> float:
    """Returns H = -sum p(w) log2 p(w) in bits; NaN without words.

    >>> word_entropy(["a", "b", "a", "b"])
    1.0
    """
    if not tokens:
        return float("nan")
    p = np.array(list(Counter(tokens).values()), dtype=np.float64) / len(tokens)
    return float(-(p * np.log2(p)).sum() + 0.0)


def type_token_ratio(tokens: Sequence[str]) -> float:
    """Returns the share of distinct words, in (0, 1]; NaN without words."""
    return len(set(tokens)) / len(tokens) if tokens else float("nan")


def ngrams(messages: Iterable[Sequence[str]], n: int) -> list[tuple[str, ...]]:
    """Returns the n-grams of the messages, in order; none crosses the end of a message."""
    return [tuple(tokens[i : i + n]) for tokens in messages for i in range(len(tokens) - n + 1)]


def distinct_n(messages: Iterable[Sequence[str]], n: int) -> float:
    """Returns the share of distinct n-grams among all n-grams of the messages (Li et al., 2016); NaN without any.

    Table 1 reports two of them: distinct-1 is the type-token ratio, distinct-2 the bigram diversity.

    >>> distinct_n([["a", "b", "a", "b"]], 2)  # ab, ba, ab
    0.6666666666666666
    """
    grams = ngrams(messages, n)
    return len(set(grams)) / len(grams) if grams else float("nan")


def bigram_diversity(messages: Iterable[Sequence[str]]) -> float:
    """Returns the share of distinct bigrams, in (0, 1]; NaN without bigrams."""
    return distinct_n(messages, 2)


def session_diversity(session: Session) -> dict[str, float]:
    """Returns Table 1's three figures of one session, and its numbers of user turns and words."""
    messages = [words(text) for text in session.user_messages()]
    tokens = [w for message in messages for w in message]
    return {
        "entropy": word_entropy(tokens),
        "ttr": type_token_ratio(tokens),
        "bigram": bigram_diversity(messages),
        "turns": float(len(messages)),
        "words": float(len(tokens)),
    }


def diversity(sessions: Sequence[Session]) -> dict[str, float]:
    """Returns ``{entropy,ttr,bigram,turns,words}_{mean,median,sd}`` over sessions that have words."""
    rows = [session_diversity(s) for s in sessions]
    result = {}
    for key in ("entropy", "ttr", "bigram", "turns", "words"):
        values = np.array([row[key] for row in rows], dtype=np.float64)
        values = values[np.isfinite(values)]
        nan = float("nan")
        result[f"{key}_mean"] = float(values.mean()) if values.size else nan
        result[f"{key}_median"] = float(np.median(values)) if values.size else nan
        result[f"{key}_sd"] = float(values.std(ddof=1)) if values.size > 1 else nan
    return result
