"""A ``Discriminator`` in the current process that scores concurrent calls in one batch.

Independent of Ray; an actor that serves a discriminator may wrap one of these. The model runs in a thread, so that it
does not block the event loop's conversations.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from rlenv.core.types import Branch, Session, SessionScores

ContextText = Callable[[Session], "str | None"]
"""Returns a session's context as the text of a system message."""


class TreeScorer(Protocol):
    """The model: a ``LoadedDiscriminator``, a ``LikelihoodDiscriminator`` or a stand-in; trees are its own."""

    def tree(self, session: Session, branches: Sequence[Branch] = (), system: str | None = None) -> Any:
        """Returns the token layout of a session and its branches."""
        ...

    def score_trees(self, trees: Sequence[Any]) -> list[SessionScores]:
        """Returns the scores of ``trees``, in order."""
        ...


class LocalDiscriminator:
    """The discriminator D_phi in the current process.

    Args:
        scorer: the model.
        context_text: returns a session's context as text; must be the function used in training. None reads no context.
        max_sessions: the most sessions (with their branches) scored together.
        max_wait_s: how long a batch that is not full waits for more calls, in seconds.
    """

    def __init__(
        self,
        scorer: TreeScorer,
        context_text: ContextText | None = None,
        *,
        max_sessions: int = 16,
        max_wait_s: float = 0.01,
    ) -> None:
        self.scorer = scorer
        self.context_text = context_text
        self.max_sessions = max_sessions
        self.max_wait_s = max_wait_s
        self._pending: list[tuple[Any, asyncio.Future[SessionScores]]] = []
        self._worker: asyncio.Task[None] | None = None

    async def log_odds(self, session: Session, branches: Sequence[Branch] = ()) -> SessionScores:
        """Returns log(p_t / (1 - p_t)) after each user message, and after each alternative of each branch.

        Raises:
            OverlongError: a turn exceeds the discriminator's ``max_tokens``; other calls are not affected.
        """
        system = self.context_text(session) if self.context_text else None
        tree = self.scorer.tree(session, branches, system)
        future: asyncio.Future[SessionScores] = asyncio.get_running_loop().create_future()
        self._pending.append((tree, future))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await future

    async def _work(self) -> None:
        while self._pending:
            if len(self._pending) < self.max_sessions:
                await asyncio.sleep(self.max_wait_s)
            batch, self._pending = self._pending[: self.max_sessions], self._pending[self.max_sessions :]
            try:
                scores = await asyncio.to_thread(self.scorer.score_trees, [tree for tree, _ in batch])
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
                continue
            for (_, future), score in zip(batch, scores, strict=True):
                if not future.done():
                    future.set_result(score)
