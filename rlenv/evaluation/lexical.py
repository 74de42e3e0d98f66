"""Lexical diversity beyond Table 1: distinct-n, message length, repeated phrases and self-BLEU, each with an interval.

Words are those of ``rlenv.linguistics``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from rlenv.evaluation.intervals import Estimate, estimate
from rlenv.linguistics import distinct_n, ngrams, session_diversity, words
from rlenv.types import Session

PHRASE_WORDS = 4
"""Words of a phrase that counts as repeated."""


def repeated_phrase_rate(messages: Sequence[Sequence[str]], n: int = PHRASE_WORDS) -> float:
    """Returns the share of n-word phrases that occur more than once in the session; NaN without any."""
    counts = Counter(ngrams(messages, n))
    total = sum(counts.values())
    return sum(c for c in counts.values() if c > 1) / total if total else float("nan")


def session_figures(session: Session) -> dict[str, float]:
    """Returns Table 1's figures of a session's user messages and those beyond it; NaN where there is nothing.

    ``ttr`` and ``bigram`` are distinct-1 and distinct-2, so of distinct-n only 3 is added.
    """
    messages = [words(text) for text in session.user_messages()]
    lengths = [len(m) for m in messages]
    return session_diversity(session) | {
        "distinct_3": distinct_n(messages, 3),
        "words_per_message": float(np.mean(lengths)) if lengths else float("nan"),
        "repeated_phrases": repeated_phrase_rate(messages),
    }


def lexical_table(sessions: Sequence[Session], seed: int = 0) -> dict[str, Estimate]:
    """Returns the mean over sessions of each of ``session_figures``, with its interval."""
    rows = [session_figures(session) for session in sessions]
    names = rows[0] if rows else session_figures(Session(session_id="none"))
    return {name: estimate([row[name] for row in rows], seed=seed) for name in names}


def self_bleu(
    sessions: Sequence[Session], *, num_references: int = 50, num_scored: int | None = None, seed: int = 0
) -> Estimate:
    """Returns how alike the sessions are: mean BLEU-4 (sacrebleu) of each against others of the same set, in [0, 100].

    Low is diverse. Each session's user messages are one text, scored against up to ``num_references`` others drawn
    under the seed. Only sets judged with the same ``num_references`` can be compared; BLEU rises with it.

    Args:
        sessions: one set.
        num_references: others that each is compared with.
        num_scored: sessions that are scored, drawn under the seed; None is all.
        seed: of the draws and the interval.
    """
    from sacrebleu.metrics import BLEU

    texts = [" ".join(session.user_messages()) for session in sessions]
    texts = [text for text in texts if text.strip()]
    if len(texts) < 2:
        return Estimate(value=None, num=len(texts))
    bleu = BLEU(effective_order=True, lowercase=True)
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(texts))[:num_scored]
    scores = []
    for i in chosen.tolist():
        others = [j for j in range(len(texts)) if j != i]
        drawn = rng.choice(others, size=min(num_references, len(others)), replace=False)
        scores.append(bleu.sentence_score(texts[i], [texts[int(j)] for j in drawn]).score)
    return estimate(scores, seed=seed)
