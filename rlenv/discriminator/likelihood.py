"""A discriminator that reads with the simulator's own model: log-odds from what it thinks of the user's words (Eq. 2).

The simulator is the generator, so its probabilities of every word are known: what it sampled is as surprising as it
expects, and what people write is not. A logistic regression reads, after each user message, statistics of the tokens'
log-probs, entropies and ranks so far and the mean hidden state; another reads word counts; a third joins the two
(``rlenv.discriminator.regressions``). It is fitted in seconds and, with a few hundred sessions, far stronger than a
fine-tuned token classifier (docs/results.md).

Only the user's tokens are read (``rlenv.discriminator.reading``). Needs scikit-learn, and torch to score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rlenv.core.errors import ConfigError
from rlenv.core.files import read_json
from rlenv.core.log_odds import PRIOR_LOG_ODDS
from rlenv.core.types import Branch, Session, SessionScores
from rlenv.discriminator.reading import READ_TOKENS, Reader, Reading, ReadRow, TokenStatistics, read_row
from rlenv.discriminator.regressions import LikelihoodModel
from rlenv.discriminator.rows import View, cut_error
from rlenv.prompting.chat_format import ChatFormat

CARD = "likelihood.json"
"""The file that describes such a discriminator's folder."""
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
        """Returns the scores of sessions with their branches; those of training sessions are out of fold."""
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
        trunk = self.model.log_odds(turn_features(row, tokens), prefix_texts(row.texts), tree.session_id)
        found: list[tuple[float, ...]] = []
        for branch, parts in zip(tree.branches, reading.branches, strict=True):
            turn, texts = branch.turn, branch.texts
            if not texts:
                found.append(())
                continue
            before = tokens.first(row.ends[turn - 2] if turn > 1 else 0)
            x = np.stack([features(before.then(part), turn) for part in parts])
            past = row.texts[: turn - 1]
            worded = ["\n".join((*past, text.strip())) for text in texts]
            found.append(tuple(map(float, self.model.log_odds(x, worded, tree.session_id))))
        log_odds = (PRIOR_LOG_ODDS, *map(float, trunk))
        return SessionScores(session_id=tree.session_id, log_odds=log_odds, branches=tuple(found))
