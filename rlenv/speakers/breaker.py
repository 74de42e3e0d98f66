"""Holds back requests to an endpoint that fails all of them, so that an outage costs time and not conversations.

After some requests in a row have failed, each with all its retries, all further ones wait. Now and then one is sent;
when it succeeds, all go on. When none has succeeded for too long, the endpoint counts as dead and requests fail at
once. One that has never answered, as with a wrong address, is not waited for as long.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from rlenv.core.errors import EngineError, UnreachableError

log = logging.getLogger(__name__)
T = TypeVar("T")
AFTER = 8
"""Failed requests in a row after which all further ones wait."""
PATIENCE_S = 300.0
"""Seconds without any success after which a waiting request fails."""
FIRST_PATIENCE_S = 30.0
"""The same, if the endpoint has never answered."""
PAUSE_S = 10.0
"""Seconds between two requests to an endpoint that fails them."""


class Breaker:
    """Sends requests to one endpoint; see above.

    Args:
        place: names the endpoint in messages.
        after: failed requests in a row after which all further ones wait.
        patience_s: seconds without any success after which a waiting request fails.
        first_patience_s: the same, if the endpoint has never answered.
        pause_s: seconds between two requests while the others wait.
    """

    def __init__(
        self,
        place: str,
        *,
        after: int = AFTER,
        patience_s: float = PATIENCE_S,
        first_patience_s: float = FIRST_PATIENCE_S,
        pause_s: float = PAUSE_S,
    ) -> None:
        self.place = place
        self.after = after
        self.patience_s = patience_s
        self.first_patience_s = first_patience_s
        self.pause_s = pause_s
        self._has_answered = False
        self._failed = 0
        """Requests that failed since the last success."""
        self._first = 0.0
        """When the first of them failed."""
        self._next = 0.0
        """When the next request may be sent while the others wait."""

    async def call(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Returns the result of ``ask()``, which may be called several times.

        Raises:
            EngineError: the endpoint is dead; or as ``ask`` raises it. Only ``UnreachableError`` counts as a failure.
        """
        while True:
            await self._admitted()
            try:
                result = await ask()
            except UnreachableError:
                self._failure()
                if self._failed < self.after or self._is_dead():
                    raise
            else:
                if self._failed >= self.after:
                    log.warning("%s answers again", self.place)
                self._failed, self._has_answered = 0, True
                return result

    @property
    def _patience(self) -> float:
        return self.patience_s if self._has_answered else min(self.patience_s, self.first_patience_s)

    def _is_dead(self) -> bool:
        return self._failed >= self.after and time.monotonic() - self._first >= self._patience

    async def _admitted(self) -> None:
        while self._failed >= self.after:
            now = time.monotonic()
            if now >= self._next:
                self._next = now + self.pause_s
                return
            if self._is_dead():
                raise EngineError(
                    f"{self.place}: {self._failed} requests in a row have failed, and none has succeeded for "
                    f"{now - self._first:.0f} s; check that the server runs, and run the same command again"
                )
            await asyncio.sleep(self.pause_s / 10)

    def _failure(self) -> None:
        now = time.monotonic()
        if not self._failed:
            self._first = now
        self._failed += 1
        if self._failed == self.after:
            self._next = now + self.pause_s
            log.warning(
                "%s: %d requests in a row have failed; the others wait up to %.0f s for an answer",
                self.place,
                self._failed,
                self._patience,
            )
