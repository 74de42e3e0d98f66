"""A discriminator that reads with the simulator's own model: log-odds from what it thinks of the user's words (Eq. 2).

The simulator is the generator, so its probabilities of every word are known: what it sampled is as surprising as it
expects, and what people write is not. A logistic regression reads, after each user message, statistics of the tokens'
log-probs, entropies and ranks so far and the mean hidden state; another reads word counts; a third joins the two on
predictions out of fold, which also calibrates them. It is fitted in seconds and, with a few hundred sessions, far
stronger than a fine-tuned token classifier (docs/results.md).

Only the user's tokens are read (``rlenv.discriminator.reading``). Needs scikit-learn, and torch to score.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rlenv.core.errors import ConfigError
from rlenv.core.files import read_json
from rlenv.core.log_odds import PRIOR_LOG_ODDS
from rlenv.core.types import Branch, Session, SessionScores
from rlenv.discriminator.reading import READ_TOKENS, Reader, Reading, ReadRow, TokenStatistics, read_row
from rlenv.discriminator.rows import View, cut_error
from rlenv.prompting.chat_format import ChatFormat

CARD = "likelihood.json"
"""The file that describes such a discriminator's folder."""
NUM_FOLDS = 5
STRENGTHS = {"reading": (0.003, 0.03, 0.3, 3.0), "words": (0.3, 3.0, 30.0)}
"""Inverse regularisation of the two regressions; the best one out of fold is taken."""
PER = 64.0
"""Sums over tokens are divided by this."""


def features(tokens: TokenStatistics, num_turns: int) -> np.ndarray:
    """Returns the features of the user's messages so far, [F] in float32.

    Args:
        tokens: of all messages so far.
        num_turns: how many messages.
    """
    p, h, r = tokens.log_prob, tokens.entropy, tokens.rank
    surprise = p + h
    each = (p, h, surprise, np.abs(surprise), surprise**2, r, r == 0, r > np.log(11), r > np.log(101),
            np.ones_like(p), p < -4, p < -7, h * h)  # fmt: skip
    means = (p.mean(), p.std(), *np.percentile(p, (5, 25, 50)), surprise.mean(), h.mean(), h.std(), r.mean(), r.std(),
             (r == 0).mean(), (r > np.log(101)).mean(), (r > np.log(1001)).mean())  # fmt: skip
    sizes = (np.log(len(p)), num_turns, len(p) / num_turns)
    return np.array([*means, *sizes, *(np.sum(x) / PER for x in each), *tokens.hidden.mean(axis=0)], np.float32)


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
class LikelihoodModel:
    """The fitted regressions."""

    reading: Linear
    words: Words
    join: tuple[float, float, float]
    """Weight of ``reading``, weight of ``words``, bias."""

    def log_odds(self, x: np.ndarray, texts: Sequence[str]) -> np.ndarray:
        """Returns the log-odds [n] of features [n, F] and of the texts that they are of."""
        one, other, bias = self.join
        return one * self.reading(x) + other * self.words(texts) + bias

    def save(self, folder: Path) -> None:
        """Writes the regressions to ``folder``."""
        vectorizer = self.words.vectorizer
        vocabulary = sorted(vectorizer.vocabulary_, key=vectorizer.vocabulary_.__getitem__)
        (folder / "words.json").write_text(json.dumps(vocabulary))
        np.savez(
            folder / "regressions.npz",
            mean=self.reading.mean, scale=self.reading.scale, weights=self.reading.weights, bias=self.reading.bias,
            idf=vectorizer.idf_, word_weights=self.words.weights, word_bias=self.words.bias, join=np.array(self.join),
        )  # fmt: skip

    @classmethod
    def load(cls, folder: Path) -> LikelihoodModel:
        """Returns what :meth:`save` wrote."""
        values = np.load(folder / "regressions.npz")
        vectorizer = _vectorizer(json.loads((folder / "words.json").read_text()), values["idf"])
        reading = Linear(values["mean"], values["scale"], values["weights"], float(values["bias"]))
        words = Words(vectorizer, values["word_weights"], float(values["word_bias"]))
        one, other, bias = map(float, values["join"])
        return cls(reading, words, (one, other, bias))


Fit = Callable[[float], tuple[Any, np.ndarray]]
"""From a strength to a regression on some rows, and its log-odds of the other rows."""


def fit_likelihood(
    x: Sequence[np.ndarray], texts: Sequence[Sequence[str]], real: Sequence[bool], contexts: Sequence[str]
) -> tuple[LikelihoodModel, list[np.ndarray]]:
    """Returns the fitted regressions, and the log-odds [T] of each training session out of fold.

    Every turn of every session is an example; the turns of a session weigh as much as those of any other.

    Args:
        x: [n] features [T, F] of each session, after each turn.
        texts: [n][T] the user's messages so far, as one text.
        real: [n]
        contexts: [n] a context's sessions are in the same fold.
    """
    from sklearn.feature_extraction.text import TfidfTransformer
    from sklearn.linear_model import LogisticRegression

    sizes = [len(each) for each in x]
    rows, flat = np.concatenate(x).astype(np.float64), [text for each in texts for text in each]
    labels, weights = np.repeat(np.asarray(real, bool), sizes), np.repeat([1 / max(1, size) for size in sizes], sizes)
    order = {context: i for i, context in enumerate(dict.fromkeys(contexts))}
    folds = np.repeat([order[context] % min(NUM_FOLDS, len(order)) for context in contexts], sizes)

    counter = _counter()
    counts = counter.fit_transform(
        flat if any(map(str.strip, flat)) else ["-"] * len(flat)
    )  # the leak control is empty

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

        def fit(strength: float) -> tuple[Words, np.ndarray]:
            fitted = LogisticRegression(C=strength, solver="liblinear", max_iter=300)
            fitted.fit(part, labels[train], sample_weight=weights[train])
            names = counter.get_feature_names_out()[columns]
            model = Words(_vectorizer(names, tf_idf.idf_), fitted.coef_[0], float(fitted.intercept_[0]))
            return model, rest @ model.weights + model.bias

        return fit

    def chosen(prepared: Callable[[np.ndarray], Fit], strengths: Sequence[float]) -> tuple[Any, np.ndarray]:
        """Returns the regression with the best strength, and its log-odds out of fold."""
        tried = {strength: np.zeros(len(rows)) for strength in strengths}
        for fold in np.unique(folds):
            fit = prepared(folds != fold)
            for strength, found in tried.items():
                found[folds == fold] = fit(strength)[1]
        best = min(strengths, key=lambda strength: np.average(_loss(tried[strength], labels), weights=weights))
        return prepared(np.ones(len(rows), bool))(best)[0], tried[best]

    by_reading, read_out_of_fold = chosen(reading, STRENGTHS["reading"])
    by_words, words_out_of_fold = chosen(words, STRENGTHS["words"])
    both = np.stack([read_out_of_fold, words_out_of_fold], axis=1)
    joined = LogisticRegression(C=1.0).fit(both, labels, sample_weight=weights)
    one, other = map(float, joined.coef_[0])
    bias = float(joined.intercept_[0])
    model = LikelihoodModel(by_reading, by_words, (one, other, bias))
    return model, np.split(both @ joined.coef_[0] + bias, np.cumsum(sizes)[:-1])


def _loss(log_odds: np.ndarray, real: np.ndarray) -> np.ndarray:
    return np.logaddexp(0, -np.where(real, log_odds, -log_odds))


WORDS = {"ngram_range": (1, 2), "lowercase": False, "token_pattern": r"\S+"}


def _counter() -> Any:
    from sklearn.feature_extraction.text import CountVectorizer

    return CountVectorizer(**WORDS)


def _vectorizer(vocabulary: Sequence[str], idf: np.ndarray) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(**WORDS, sublinear_tf=True)
    vectorizer.vocabulary_ = {word: i for i, word in enumerate(vocabulary)}
    vectorizer.idf_ = idf
    return vectorizer


def prefix_texts(texts: Sequence[str]) -> list[str]:
    """Returns the messages up to each turn as one text, [T].

    >>> prefix_texts(["a", "b"])
    ['a', 'a\\nb']
    """
    return ["\n".join(texts[: turn + 1]) for turn in range(len(texts))]


def turn_features(row: ReadRow, tokens: TokenStatistics) -> np.ndarray:
    """Returns the features after each turn of a session, [T, F]."""
    return np.stack([features(tokens.first(end), turn) for turn, end in enumerate(row.ends, start=1)])


@dataclass(frozen=True)
class ReadTree:
    """A session and its branches, to be scored together."""

    session_id: str
    row: ReadRow
    branches: tuple[Branch, ...]


def reader_of(path: str | Path) -> Path | None:
    """Returns the adapter of the simulator that the discriminator in ``path`` reads with; None where there is none."""
    card = Path(path) / CARD
    return Path(read_json(card)["adapter"]) if card.exists() else None


class LikelihoodDiscriminator:
    """A fitted discriminator, ready to score. Build it with :meth:`load`."""

    def __init__(
        self,
        reader: Reader,
        model: LikelihoodModel,
        max_tokens: int,
        view: View = "full",
        blank_user: bool = False,
    ) -> None:
        self.reader = reader
        self.model = model
        self.max_tokens = max_tokens
        self.view: View = view
        self.blank_user = blank_user

    @property
    def chat(self) -> ChatFormat:
        """The simulator's chat template."""
        return self.reader.chat

    @classmethod
    def load(cls, path: str | Path, *, device: str = "cpu", batch_tokens: int = READ_TOKENS) -> LikelihoodDiscriminator:
        """Returns the discriminator saved in the folder ``path``; ``batch_tokens`` is that of ``Reader``.

        Raises:
            ConfigError: the simulator that it reads with is missing.
        """
        root = Path(path)
        card = read_json(root / CARD)
        adapter = Path(card["adapter"])
        if not adapter.exists():  # a copied run: VERSION/discriminator/main was fitted on VERSION/adapter
            adapter = root.parents[1] / "adapter"
        for what in (adapter, Path(card["base_model"])):
            if what.is_absolute() and not what.exists():
                raise ConfigError(f"{root / CARD}: the simulator's {what} does not exist; restore it or train again")
        reader = Reader.load(card["base_model"], adapter, device=device, dtype=card["dtype"], batch_tokens=batch_tokens)
        view = card.get("view", "full")  # cards of runs made before had none
        return cls(reader, LikelihoodModel.load(root), card["max_tokens"], view, card["blank_user"])

    def tree(self, session: Session, branches: Sequence[Branch] = (), system: str | None = None) -> ReadTree:
        """Returns the token layout of a session and its branches, for :meth:`score_trees`.

        Raises:
            OverlongError: the session exceeds ``max_tokens``.
            IndexError: a branch is at a turn that the session does not have.
        """
        row = read_row(
            self.chat, session.messages, system or "", self.max_tokens, view=self.view, blank_user=self.blank_user
        )
        if len(row.ends) < row.num_turns:
            raise cut_error(session.session_id, len(row.ends), row.num_turns, self.max_tokens)
        for branch in branches:
            if branch.turn > row.num_turns:
                raise IndexError(
                    f"session {session.session_id}: a branch is at turn {branch.turn}, but there are {row.num_turns}"
                )
        return ReadTree(session.session_id, row, tuple(branches))

    def score_trees(self, trees: Sequence[ReadTree]) -> list[SessionScores]:
        """Returns the scores of sessions with their branches."""
        worded = [tree for tree in trees if tree.row.ends]
        texts = [[(branch.turn, branch.texts) for branch in tree.branches] for tree in worded]
        readings = iter(self.reader.read([tree.row for tree in worded], texts))
        return [
            self._score(tree, next(readings))
            if tree.row.ends
            else SessionScores(session_id=tree.session_id, log_odds=(PRIOR_LOG_ODDS,))
            for tree in trees
        ]

    def _score(self, tree: ReadTree, reading: Reading) -> SessionScores:
        row, tokens = tree.row, reading.own
        trunk = self.model.log_odds(turn_features(row, tokens), prefix_texts(row.texts))
        found: list[tuple[float, ...]] = []
        for branch, parts in zip(tree.branches, reading.branches, strict=True):
            turn, texts = branch.turn, branch.texts
            if not texts:
                found.append(())
                continue
            before = tokens.first(row.ends[turn - 2] if turn > 1 else 0)
            x = np.stack([features(before.then(part), turn) for part in parts])
            past = row.texts[: turn - 1]
            found.append(tuple(map(float, self.model.log_odds(x, ["\n".join((*past, t.strip())) for t in texts]))))
        log_odds = (PRIOR_LOG_ODDS, *map(float, trunk))
        return SessionScores(session_id=tree.session_id, log_odds=log_odds, branches=tuple(found))
