"""A classifier of user actions fitted on labelled sessions: a cheap judge for one population of users.

One logistic regression per action on the words, bigrams and trigrams of a single message (Section 4.3.2 judges single
messages too). It only knows the wording of its training data, so it needs labelled sessions of the same users, and its
results should be reported with its agreement with held-out labels (``rlenv.judges.compare``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rlenv.core.errors import ConfigError
from rlenv.core.types import Annotation, Session
from rlenv.data.linguistics import plain, spaced

MIN_MESSAGES = 5
"""An action with fewer messages is not learnt and never predicted."""


def _read(text: str) -> str:
    """Returns a message in the form in which its words are counted."""
    return spaced(plain(text)).lower()


class ActionClassifier:
    """A ``Judge`` of user actions.

    Args:
        sessions: labelled sessions for training; messages without labels are left out.
        seed: seed of the solver.

    Raises:
        ConfigError: no action has ``MIN_MESSAGES`` labelled messages.
    """

    kinds = ("actions",)

    def __init__(self, sessions: Sequence[Session], seed: int = 0) -> None:
        from sklearn.feature_extraction.text import CountVectorizer
        from sklearn.linear_model import LogisticRegression

        messages = [m for s in sessions for m in s.messages if m.role == "user" and m.actions is not None]
        counts: dict[str, int] = {}
        for message in messages:
            for action in message.actions or ():
                counts[action] = counts.get(action, 0) + 1
        self.actions = tuple(sorted(a for a, n in counts.items() if MIN_MESSAGES <= n < len(messages)))
        if not self.actions:
            raise ConfigError(
                f"action classifier: expected an action on {MIN_MESSAGES} or more "
                f"(but not all) of the {len(messages)} labelled user messages, found none; give more labelled sessions"
            )
        self.name = f"action classifier of {len(messages)} messages"
        self._features: Any = CountVectorizer(
            ngram_range=(1, 3), min_df=2, binary=True, preprocessor=_read, token_pattern=r"[\w']+|[?!.]"
        )
        rows = self._features.fit_transform(m.content for m in messages)
        fitted = [
            LogisticRegression(C=10.0, solver="liblinear", random_state=seed).fit(
                rows, [action in (m.actions or ()) for m in messages]
            )
            for action in self.actions
        ]
        self._weights = np.vstack([model.coef_[0] for model in fitted])
        self._biases = np.array([model.intercept_[0] for model in fitted])

    async def annotate(self, session: Session) -> Annotation:
        """Returns the actions of every user message; see ``rlenv.core.protocols.Judge``."""
        found = iter(self.classify(session.user_messages()))
        return Annotation(labels=tuple(next(found) if m.role == "user" else () for m in session.messages))

    def classify(self, texts: Sequence[str]) -> list[tuple[str, ...]]:
        """Returns the actions of each message."""
        if not texts:
            return []
        scores = self._features.transform(texts) @ self._weights.T + self._biases
        return [tuple(a for a, score in zip(self.actions, row, strict=True) if score > 0) for row in scores]
