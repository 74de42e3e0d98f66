"""Bounds the size and the rate of requests to the served endpoint, before anything reads them."""

from __future__ import annotations

import asyncio
import math
import time
from collections import OrderedDict
from collections.abc import Callable

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_BYTES = 2 * 2**20
"""Longest body of a request, in bytes: some hundred thousand words."""
MOST_A_MINUTE = 6000
"""Requests of one client in a minute, on average; as many may come at once."""
MOST_SECONDS = 60.0
"""Time in which a client must have sent the body of a request, in seconds."""
MOST_CLIENTS = 10_000
"""Clients that are remembered; the one that has been silent longest is forgotten first."""


class RequestLimits:
    """An ASGI application that bounds requests.

    It answers 413 to a body that is too large, 408 to one that comes too slowly, and 429 to a client that asks too
    often.

    Args:
        app: the application behind it.
        most_bytes: longest body.
        most_a_minute: requests of one client in a minute.
        most_seconds: time for a body.
        clock: seconds, for tests.
    """

    def __init__(
        self,
        app: ASGIApp,
        most_bytes: int = MOST_BYTES,
        most_a_minute: int = MOST_A_MINUTE,
        most_seconds: float = MOST_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.app = app
        self.most_bytes = most_bytes
        self.most_a_minute = most_a_minute
        self.most_seconds = most_seconds
        self._clock = clock
        self._clients: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """By client: the requests that it may still make, and when that was counted."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or answers it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        wait = self._wait(str((scope.get("client") or ("",))[0]))
        if wait:
            text = f"more than {self.most_a_minute} requests a minute; ask again in {wait} s"
            await _refusal(429, text, {"Retry-After": str(wait)})(scope, receive, send)
            return
        too_large = f"expected a body of at most {self.most_bytes} bytes; send fewer messages"
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length) > self.most_bytes:
            await _refusal(413, too_large, {})(scope, receive, send)
            return
        seen, whole, latest = 0, False, asyncio.get_running_loop().time() + self.most_seconds

        async def counted() -> Message:
            nonlocal seen, whole
            try:
                async with asyncio.timeout_at(None if whole else latest):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(408, f"expected the whole body within {self.most_seconds:g} s") from None
            whole = whole or not message.get("more_body", False)
            seen += len(message.get("body", b""))
            if seen > self.most_bytes:  # sent in parts, without its length
                raise HTTPException(413, too_large)
            return message

        await self.app(scope, counted, send)

    def _wait(self, client: str) -> int:
        """Returns the whole seconds that a client has to wait; 0 counts a request."""
        now, rate = self._clock(), self.most_a_minute / 60
        left, since = self._clients.pop(client, (float(self.most_a_minute), now))
        left = min(float(self.most_a_minute), left + (now - since) * rate)
        allowed = left >= 1
        self._clients[client] = (left - allowed, now)
        if len(self._clients) > MOST_CLIENTS:
            self._clients.popitem(last=False)
        return 0 if allowed else max(1, math.ceil((1 - left) / rate))


def _refusal(status: int, message: str, headers: dict[str, str]) -> JSONResponse:
    shape = {"message": message, "type": "invalid_request_error", "param": None, "code": None}
    return JSONResponse({"error": shape}, status_code=status, headers=headers)
