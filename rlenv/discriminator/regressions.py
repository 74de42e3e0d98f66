"""The regressions of a ``likelihood`` discriminator: on features, on word counts, and one that joins the two.

Each is fitted on all training sessions, and once more without each fold of them. A training session is scored by those
that were not fitted on its fold, whenever it is scored: a regression has learnt some of its training sessions' words by
heart, and rewards by it (Eq. 4) would teach the simulator those words. So are further simulations of its context, whose
words are about the same. All other sessions are scored by the regressions on everything. The joining regression is
fitted on predictions out of fold, which also calibrates it.

Needs scikit-learn.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rlenv.core.types import context_of

NUM_FOLDS = 5
STRENGTHS = {"reading": (0.003, 0.03, 0.3, 3.0), "words": (0.3, 3.0, 30.0)}
"""Inverse regularisation of the two regressions; the best one out of fold is taken."""
WORDS = {"ngram_range": (1, 2), "lowercase": False, "token_pattern": r"\S+"}
VALUES, VOCABULARY, FOLDS = "regressions.npz", "words.json", "folds.json"


@dataclass(frozen=True)
class Linear:
    """A logistic regression on standardised features."""

    mean: np.ndarray
    scale: np.ndarray
    weights: np.ndarray
    bias: float

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Returns the log-odds [n] of features [n, F]."""
        return (x - self.mean) / self.scale @ self.weights + self.bias


@dataclass(frozen=True)
class Words:
    """A logistic regression on TF-IDF of words and pairs of words."""

    vectorizer: Any
    weights: np.ndarray
    bias: float

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Returns the log-odds [n] of texts."""
        return self.vectorizer.transform(texts) @ self.weights + self.bias


@dataclass(frozen=True)
class Regressions:
    """Two regressions that were fitted on the same sessions."""

    reading: Linear
    words: Words


@dataclass(frozen=True)
class LikelihoodModel:
    """The fitted regressions."""

    whole: Regressions
    """Fitted on all training sessions."""
    join: tuple[float, float, float]
    """Weight of the regression on features, weight of the one on words, bias."""
    folds: tuple[Regressions, ...] = ()
    """[K] fitted on all training sessions but those of a fold."""
    fold_of: Mapping[str, int] = field(default_factory=dict)
    """The fold of each training session, by its id."""

    def log_odds(self, x: np.ndarray, texts: Sequence[str], session_id: str | None = None) -> np.ndarray:
        """Returns the log-odds [n] of features [n, F] and of the texts that they are of.

        ``session_id`` is the session that they belong to; a training session's are out of fold, and so are those of
        any other simulation (``CONTEXT#1``, ...) of its context.
        """
        found = self._regressions_for(session_id)
        one, other, bias = self.join
        return one * found.reading(x) + other * found.words(texts) + bias

    def _regressions_for(self, session_id: str | None) -> Regressions:
        for name in (session_id, context_of(session_id)) if session_id is not None else ():
            if name in self.fold_of:
                return self.folds[self.fold_of[name]]
        return self.whole

    def save(self, folder: Path) -> None:
        """Writes the regressions to ``folder``."""
        every = [self.whole, *self.folds]
        vocabulary = self.whole.words.vectorizer.vocabulary_
        (folder / VOCABULARY).write_text(json.dumps(sorted(vocabulary, key=vocabulary.__getitem__)))
        (folder / FOLDS).write_text(json.dumps(self.fold_of, indent=0, sort_keys=True))
        arrays: dict[str, Any] = {
            name: np.stack([getattr(each.reading, name) for each in every])
            for name in ("mean", "scale", "weights", "bias")
        }
        arrays["idf"] = np.stack([each.words.vectorizer.idf_ for each in every])
        arrays["word_weights"] = np.stack([each.words.weights for each in every])
        arrays["word_bias"] = np.array([each.words.bias for each in every])
        np.savez_compressed(folder / VALUES, **arrays, join=np.array(self.join))

    @classmethod
    def load(cls, folder: Path) -> LikelihoodModel:
        """Returns what :meth:`save` wrote; what earlier versions wrote has no folds."""
        with np.load(folder / VALUES) as values:
            rows = {name: np.atleast_1d(values[name]) for name in ("bias", "word_bias")}
            names = ("mean", "scale", "weights", "idf", "word_weights")
            rows |= {name: np.atleast_2d(values[name]) for name in names}
            one, other, bias = map(float, values["join"])
        vocabulary = {word: i for i, word in enumerate(json.loads((folder / VOCABULARY).read_text()))}
        whole, *folds = [
            Regressions(
                Linear(rows["mean"][i], rows["scale"][i], rows["weights"][i], float(rows["bias"][i])),
                Words(_vectorizer(vocabulary, rows["idf"][i]), rows["word_weights"][i], float(rows["word_bias"][i])),
            )
            for i in range(len(rows["bias"]))
        ]
        fold_of = json.loads((folder / FOLDS).read_text()) if folds else {}
        return cls(whole, (one, other, bias), tuple(folds), fold_of)


Fit = Callable[[float], tuple[Any, np.ndarray]]
"""From a strength to a regression on some rows, and its log-odds of the other rows."""


def fit_likelihood(
    x: Sequence[np.ndarray],
    texts: Sequence[Sequence[str]],
    real: Sequence[bool],
    contexts: Sequence[str],
    session_ids: Sequence[str],
) -> tuple[LikelihoodModel, list[np.ndarray]]:
    """Returns the fitted regressions, and the log-odds [T] of each training session out of fold.

    Every turn of every session is an example; the turns of a session weigh as much as those of any other.

    Args:
        x: [n] features [T, F] of each session, after each turn.
        texts: [n][T] the user's messages so far, as one text.
        real: [n]
        contexts: [n] a context's sessions are in the same fold.
        session_ids: [n]
    """
    from sklearn.feature_extraction.text import TfidfTransformer
    from sklearn.linear_model import LogisticRegression

    sizes = [len(each) for each in x]
    rows, flat = np.concatenate(x).astype(np.float64), [text for each in texts for text in each]
    labels, weights = np.repeat(np.asarray(real, bool), sizes), np.repeat([1 / max(1, size) for size in sizes], sizes)
    order = {context: i for i, context in enumerate(dict.fromkeys(contexts))}
    fold_of = [order[context] % min(NUM_FOLDS, len(order)) for context in contexts]
    folds = np.repeat(fold_of, sizes)

    counter = _counter()
    counts = counter.fit_transform(
        flat if any(map(str.strip, flat)) else ["-"] * len(flat)
    )  # the leak control is empty
    vocabulary = counter.vocabulary_

    def reading(train: np.ndarray) -> Fit:
        part = rows[train]
        mean, scale = part.mean(axis=0), part.std(axis=0)
        scale[scale < 1e-6] = 1.0

        def fit(strength: float) -> tuple[Linear, np.ndarray]:
            fitted = LogisticRegression(C=strength, solver="newton-cholesky", max_iter=100)
            fitted.fit((part - mean) / scale, labels[train], sample_weight=weights[train])
            model = Linear(mean, scale, fitted.coef_[0], float(fitted.intercept_[0]))
            return model, model(rows[~train])

        return fit

    def words(train: np.ndarray) -> Fit:
        columns = np.flatnonzero(counts[train].getnnz(axis=0)) if counts[train].nnz else np.arange(1)
        part, rest = counts[train][:, columns], counts[~train][:, columns]
        tf_idf = TfidfTransformer(sublinear_tf=True).fit(part)
        part, rest = tf_idf.transform(part), tf_idf.transform(rest) if rest.shape[0] else rest

        def over_all(values: np.ndarray) -> np.ndarray:
            """Returns the values of ``columns`` with zeros for the words that these sessions do not have."""
            found = np.zeros(len(vocabulary))
            found[columns] = values
            return found

        def fit(strength: float) -> tuple[Words, np.ndarray]:
            fitted = LogisticRegression(C=strength, solver="liblinear", max_iter=300)
            fitted.fit(part, labels[train], sample_weight=weights[train])
            bias = float(fitted.intercept_[0])
            model = Words(_vectorizer(vocabulary, over_all(tf_idf.idf_)), over_all(fitted.coef_[0]), bias)
            return model, rest @ fitted.coef_[0] + bias

        return fit

    def chosen(prepared: Callable[[np.ndarray], Fit], strengths: Sequence[float]) -> tuple[Any, list[Any], np.ndarray]:
        """Returns the regression with the best strength, those without each fold, and the log-odds out of fold."""
        tried = {strength: np.zeros(len(rows)) for strength in strengths}
        without: dict[float, list[Any]] = {strength: [] for strength in strengths}
        for fold in range(max(fold_of) + 1):
            fit = prepared(folds != fold)
            for strength, found in tried.items():
                model, found[folds == fold] = fit(strength)
                without[strength].append(model)
        best = min(strengths, key=lambda strength: np.average(_loss(tried[strength], labels), weights=weights))
        return prepared(np.ones(len(rows), bool))(best)[0], without[best], tried[best]

    by_reading, reading_without, read_out_of_fold = chosen(reading, STRENGTHS["reading"])
    by_words, words_without, words_out_of_fold = chosen(words, STRENGTHS["words"])
    both = np.stack([read_out_of_fold, words_out_of_fold], axis=1)
    joined = LogisticRegression(C=1.0).fit(both, labels, sample_weight=weights)
    one, other = map(float, joined.coef_[0])
    bias = float(joined.intercept_[0])
    model = LikelihoodModel(
        Regressions(by_reading, by_words),
        (one, other, bias),
        tuple(map(Regressions, reading_without, words_without)),
        dict(zip(session_ids, fold_of, strict=True)),
    )
    return model, np.split(both @ joined.coef_[0] + bias, np.cumsum(sizes)[:-1])


def _loss(log_odds: np.ndarray, real: np.ndarray) -> np.ndarray:
    return np.logaddexp(0, -np.where(real, log_odds, -log_odds))


def _counter() -> Any:
    from sklearn.feature_extraction.text import CountVectorizer

    return CountVectorizer(**WORDS)


def _vectorizer(vocabulary: dict[str, int], idf: np.ndarray) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(**WORDS, sublinear_tf=True)
    vectorizer.vocabulary_, vectorizer.idf_ = vocabulary, idf
    return vectorizer
