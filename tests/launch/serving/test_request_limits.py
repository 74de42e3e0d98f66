"""The served endpoint bounds what it reads and how often, and listens to other machines only with a key."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient

from launch.serving.request_limits import RequestLimits
from launch.serving.user_endpoint import serve_user
from rlenv.core.errors import ConfigError


def echo() -> FastAPI:
    app = FastAPI()

    @app.post("/echo")
    async def echo(request: Request) -> int:
        return len(await request.body())

    return app


def client(clock=lambda: 0.0, **limits: int) -> TestClient:
    return TestClient(RequestLimits(echo(), clock=clock, **limits))


def test_a_body_that_is_too_large_is_refused_with_or_without_its_length():
    with client(most_bytes=100) as http:
        assert http.post("/echo", content=b"x" * 100).json() == 100
        assert http.post("/echo", content=b"x" * 101).status_code == 413
        chunks = http.post("/echo", content=(b"x" * 40 for _ in range(3)))  # sent without a length
        assert chunks.status_code == 413 and "at most 100 bytes" in chunks.text
        assert http.post("/echo", content=b"x", headers={"content-length": "-1"}).status_code == 413


def test_a_body_that_does_not_come_is_given_up():
    async def body() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.sleep(60)

    async def post() -> httpx.Response:
        app = RequestLimits(echo(), most_seconds=0.2)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as http:
            return await http.post("/echo", content=body())

    refused = asyncio.run(post())
    assert refused.status_code == 408 and "within 0.2 s" in refused.text


def test_a_client_that_asks_too_often_waits_and_is_told_how_long():
    now = 0.0
    with client(clock=lambda: now, most_a_minute=3) as http:
        assert [http.post("/echo").status_code for _ in range(4)] == [200, 200, 200, 429]
        refused = http.post("/echo")
        assert refused.headers["retry-after"] == "20"
        now = 20.0
        assert [http.post("/echo").status_code for _ in range(2)] == [200, 429]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.3", "node7"])
def test_without_a_key_it_listens_to_this_machine_alone(host):
    with pytest.raises(ConfigError, match="--api-key-env"):
        serve_user("no/such/run", host=host)


def test_on_this_machine_no_key_is_needed():
    with pytest.raises(ConfigError, match="no/such/run"):
        serve_user("no/such/run", host="127.0.0.1")
