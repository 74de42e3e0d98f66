"""Lexical statistics of a session's user messages: word entropy, type-token ratio, bigram diversity (Section 4.3.1).

A word, in all of rlenv, is letters, digits and ``_`` with their combining marks, and at most one apostrophe inside.
Typographic apostrophes are the typewriter's, and equal letters are equal however they are encoded (NFC). In scripts
without blanks (Chinese, hiragana, Thai, Lao, Burmese, Khmer) each letter is a word, as in Unicode's rule without a
dictionary (UAX #29). Words are lower-cased for figures; entropy is in bits. Bigrams do not cross the end of a message.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from rlenv.core.types import Session

APOSTROPHES = "\u2019\u2018\u02bc\uff07\u00b4\u2032"
"""Characters that people and phones write for the apostrophe inside a word; none is a letter, though Unicode calls one
so."""
UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u2fdf\u3005\u3007\u3021-\u3029\u3041-\u309f\u3400-\u4dbf\u4e00-\u9fff"
    "\uaa60-\uaa7f\uf900-\ufaff\U00020000-\U0003ffff"
)
"""Ranges of the scripts that are written without blanks."""
_ASCII_WORD = re.compile(r"\w+(?:'\w+)?")


def _joined() -> str:
    marks = [c for c in map(chr, range(0x300, 0x20000)) if unicodedata.category(c)[0] == "M"]
    return re.escape("".join([*marks, "\u200c\u200d"])) + "\U000e0100-\U000e01ef"


_JOINED = _joined()
"""What belongs to the letter before it, as the inside of a character class."""
_LETTER = rf"(?![{UNSPACED}{APOSTROPHES}])\w[{_JOINED}]*"
_INSIDE = re.compile(rf"(?<=[\w{_JOINED}])[{APOSTROPHES}](?=\w)")
WORD = re.compile(rf"(?=[{UNSPACED}])\w[{_JOINED}]*|(?:{_LETTER})+(?:['{APOSTROPHES}](?:{_LETTER})+)?")
"""One word, in text as it is written."""


def plain(text: str) -> str:
    """Returns a text with equal letters encoded equally, and the typewriter's apostrophe inside words.

    >>> plain("I can’t, she said ‘no’")
    "I can't, she said ‘no’"
    """
    return text if text.isascii() else _INSIDE.sub("'", unicodedata.normalize("NFC", text))


def words(text: str) -> list[str]:
    """Returns the words of a text, in lower case.

    >>> words("I can't. I CAN’T!")
    ['i', "can't", 'i', "can't"]
    >>> words("मैं ठीक हूँ"), words("我睡不着。")
    (['मैं', 'ठीक', 'हूँ'], ['我', '睡', '不', '着'])
    """
    if text.isascii():
        return _ASCII_WORD.findall(text.lower())
    return WORD.findall(plain(text).lower())


def spaced(text: str) -> str:
    """Returns a text with blanks around the words of scripts that are written without them, for tools that need blanks.

    >>> spaced("我睡不着, sorry")
    ' 我  睡  不  着 , sorry'
    """
    if text.isascii():
        return text
    return re.sub(rf"(?=[{UNSPACED}])(?:{WORD.pattern})", lambda found: f" {found[0]} ", plain(text))


def unspaced_share(sessions: Sequence[Session]) -> float:
    """Returns the share of the users' words that are single letters of a script without blanks; 0 without words."""
    letter = re.compile(f"[{UNSPACED}]")
    tokens = [w for s in sessions for text in s.user_messages() if not text.isascii() for w in words(text)]
    total = len(tokens) + sum(len(words(t)) for s in sessions for t in s.user_messages() if t.isascii())
    return sum(bool(letter.match(w)) for w in tokens) / total if total else 0.0


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
    """Returns Table 1's three figures of one session, its numbers of user turns and words, and words per message."""
    messages = [words(text) for text in session.user_messages()]
    tokens = [w for message in messages for w in message]
    return {
        "entropy": word_entropy(tokens),
        "ttr": type_token_ratio(tokens),
        "bigram": bigram_diversity(messages),
        "turns": float(len(messages)),
        "words": float(len(tokens)),
        "words_per_message": len(tokens) / len(messages) if messages else float("nan"),
    }


def diversity(sessions: Sequence[Session]) -> dict[str, float]:
    """Returns ``{entropy,ttr,bigram,turns,words,words_per_message}_{mean,median,sd}`` over sessions that have words."""
    rows = [session_diversity(s) for s in sessions]
    result = {}
    for key in ("entropy", "ttr", "bigram", "turns", "words", "words_per_message"):
        values = np.array([row[key] for row in rows], dtype=np.float64)
        values = values[np.isfinite(values)]
        nan = float("nan")
        result[f"{key}_mean"] = float(values.mean()) if values.size else nan
        result[f"{key}_median"] = float(np.median(values)) if values.size else nan
        result[f"{key}_sd"] = float(values.std(ddof=1)) if values.size > 1 else nan
    return result
