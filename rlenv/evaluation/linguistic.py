"""Table 1: lexical diversity per session, with mean, median and standard deviation over sessions and intervals.

Words, entropy and bigrams are those of ``rlenv.data.linguistics``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from rlenv.core.types import Record, Session
from rlenv.data.linguistics import distinct_n, ngrams, session_diversity, spaced, words
from rlenv.discriminator.controls import cut_after_turn
from rlenv.evaluation.statistics.intervals import Estimate, estimate

PHRASE_WORDS = 4
"""Words of a phrase that counts as repeated."""

TABLE_1 = ("entropy", "ttr", "bigram")


class Spread(Record):
    """One figure over sessions."""

    mean: Estimate
    median: float | None
    sd: float | None
    """Over sessions (n - 1); None with fewer than two."""


class LinguisticRow(Record):
    """One row of Table 1, with further figures."""

    name: str
    num_sessions: int
    features: dict[str, Spread]
    self_bleu: Estimate


class LinguisticTable(Record):
    """Table 1."""

    real: LinguisticRow
    rows: tuple[LinguisticRow, ...]
    max_turns: int | None
    """All sessions were cut after this user message; entropy, TTR and the like depend on length."""
    closest: dict[str, str]
    """By figure, the simulator whose mean is closest to the real one (the paper's bold)."""


def linguistic_row(
    name: str,
    sessions: Sequence[Session],
    *,
    max_turns: int | None = None,
    num_references: int = 10,
    num_scored: int = 100,
    seed: int = 0,
) -> LinguisticRow:
    """Returns one row; a figure that no session has is None.

    Args:
        name: the row's name.
        sessions: the sessions of one simulator.
        max_turns: cut sessions after this user message; None leaves them whole.
        num_references: number of other sessions that each is compared with in self-BLEU.
        num_scored: the most sessions that self-BLEU scores.
        seed: seed of intervals and draws.
    """
    cut = [cut_after_turn(s, max_turns) for s in sessions] if max_turns else list(sessions)
    rows = [session_figures(s) for s in cut]
    names = rows[0] if rows else session_figures(Session(session_id="none"))
    return LinguisticRow(
        name=name,
        num_sessions=len(cut),
        features={key: _spread([row[key] for row in rows], seed) for key in names},
        self_bleu=self_bleu(cut, num_references=num_references, num_scored=num_scored, seed=seed),
    )


def closest(real: LinguisticRow, rows: Sequence[LinguisticRow]) -> dict[str, str]:
    """Returns for each figure the name of the row whose mean is nearest to the real mean."""
    found = {}
    for key, spread in real.features.items():
        target = spread.mean.value
        known = {r.name: v for r in rows if (v := r.features[key].mean.value) is not None}
        if target is not None and known:
            found[key] = min(known, key=lambda name: abs(known[name] - target))
    return found


def _spread(values: Sequence[float], seed: int) -> Spread:
    array = np.asarray(values, np.float64)
    array = array[np.isfinite(array)]
    return Spread(
        mean=estimate(values, seed=seed),
        median=float(np.median(array)) if array.size else None,
        sd=float(array.std(ddof=1)) if array.size > 1 else None,
    )


def repeated_phrase_rate(messages: Sequence[Sequence[str]], n: int = PHRASE_WORDS) -> float:
    """Returns the share of n-word phrases that occur more than once in the session; NaN without any."""
    counts = Counter(ngrams(messages, n))
    total = sum(counts.values())
    return sum(c for c in counts.values() if c > 1) / total if total else float("nan")


def session_figures(session: Session) -> dict[str, float]:
    """Returns Table 1's figures of a session's user messages, and further ones; NaN where undefined.

    ``ttr`` and ``bigram`` are distinct-1 and distinct-2, so of distinct-n only 3 is added.
    """
    messages = [words(text) for text in session.user_messages()]
    return session_diversity(session) | {
        "distinct_3": distinct_n(messages, 3),
        "repeated_phrases": repeated_phrase_rate(messages),
    }


def self_bleu(
    sessions: Sequence[Session], *, num_references: int = 50, num_scored: int | None = None, seed: int = 0
) -> Estimate:
    """Returns the self-BLEU of a set: mean BLEU-4 (sacrebleu) of each session against others of the set, in [0, 100].

    Low is diverse. Each session's user messages are one text, scored against up to ``num_references`` others drawn with
    the seed. BLEU rises with ``num_references``, so only sets scored with the same number can be compared.

    Args:
        sessions: the set.
        num_references: number of other sessions that each is compared with.
        num_scored: number of sessions to score, drawn with the seed; None is all.
        seed: seed of the draws and the interval.
    """
    from sacrebleu.metrics import BLEU

    texts = [spaced(" ".join(session.user_messages())) for session in sessions]
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
