"""The ``Discriminator`` protocol in this process: concurrent calls are gathered and scored in one batch.

Knows nothing of Ray; an actor that serves a discriminator may hold one of these. The model works in a thread, so that
the conversations of the event loop go on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from rlenv.core.types import Branch, Session, SessionScores
from rlenv.discriminator.rows import DiscriminatorTree

ContextText = Callable[[Session], "str | None"]
"""Builds the system message that a session's context becomes."""


class TreeScorer(Protocol):
    """What scores: ``rlenv.discriminator.model.LoadedDiscriminator``, or a stand-in."""

    def tree(self, session: Session, branches: Sequence[Branch] = (), system: str | None = None) -> DiscriminatorTree:
        """Returns a session and its branches laid out."""
        ...

    def score_trees(self, trees: Sequence[DiscriminatorTree]) -> list[SessionScores]:
        """Returns their scores, in order."""
        ...


class LocalDiscriminator:
    """D_phi in this process.

    Args:
        scorer: the model.
        context_text: the context's text of a session; None reads no context. Must be what training used.
        max_sessions: sessions (with their branches) scored together.
        max_wait_s: how long a first call waits for others.
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
        self._pending: list[tuple[DiscriminatorTree, asyncio.Future[SessionScores]]] = []
        self._worker: asyncio.Task[None] | None = None

    async def log_odds(self, session: Session, branches: Sequence[Branch] = ()) -> SessionScores:
        """Returns log(p_t / (1 - p_t)) after each user message, and after each alternative of each branch.

        Raises:
            OverlongError: a turn does not fit the discriminator's positions; its other callers go on.
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
