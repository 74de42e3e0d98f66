"""Serves trained simulators behind an OpenAI-compatible API: /v1/models and /v1/chat/completions.

    rlenv serve-user runs/esconv_smollm2 --version it2 --port 8000

The message of an answer is the simulated user's next message (with role "assistant", as the API requires), and
``choices[i].rlenv["ended"]`` is true if the user ends the session with it. No message text is logged.
"""

from __future__ import annotations

import hmac
import json
import logging
import os
import re
import secrets
import signal
import sys
import time
import traceback
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from launch.run.contents import version_order, was_taken
from launch.run.directory import RunDirectory
from launch.serving.config import EnvConfig, load_env_config
from launch.serving.env import check_versions
from launch.serving.request_limits import RequestLimits
from launch.serving.user_requests import RequestError, SampledMessages, UserRequest, next_key, state_of
from rlenv.core.aio import all_of
from rlenv.core.errors import ConfigError, OverlongError, RlenvError, there_are
from rlenv.core.protocols import UserSimulator
from rlenv.core.settings import EXPECTED
from rlenv.core.types import ConversationState, Utterance
from rlenv.env.conversation import reply_seed
from rlenv.env.provenance import describe
from rlenv.env.providers import env_parts
from rlenv.env.scenarios import Scenarios
from rlenv.prompting.cutting import encodable
from rlenv.prompting.system_texts import approximate_tokens
from rlenv.speakers.engine import EngineSpeaker

log = logging.getLogger(__name__)
OTHER_PATH = (
    "there is nothing under this path; the simulated user is under /v1/chat/completions and /v1/models (an agent "
    "framework may need to be told to use chat completions)"
)
LOOPBACK = ("127.0.0.1", "localhost", "::1")
"""Addresses that only processes of this machine reach."""


def serve_user(
    config: str | Path,
    versions: Sequence[str] = (),
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key_env: str | None = None,
    overrides: Sequence[str] = (),
) -> None:
    """Serves simulators of a run until interrupted or terminated, and then stops their engines.

    Args:
        config: a run directory, or an env's YAML file.
        versions: the simulators to serve; none is the run's newest.
        host: address to listen on.
        port: port to listen on.
        api_key_env: name of the environment variable with the API key that requests must have; None requires none.
        overrides: ``key.sub=value``, as for an env.

    Raises:
        ConfigError: there is no such run or version, or the variable is not set, or the address lets other machines in
            and no key is required.
        EngineError: a model could not be served.
    """
    key = os.environ.get(api_key_env) if api_key_env else None
    if api_key_env and not key:
        raise ConfigError(
            f"the environment variable {api_key_env} is not set; set it to the API key that requests must have"
        )
    if key is None and host not in LOOPBACK:
        raise ConfigError(
            f"--host {host} lets other machines in; name the environment variable with the API key that requests must "
            "have (--api-key-env), or listen on 127.0.0.1"
        )
    settings: EnvConfig = load_env_config(config, overrides)
    check_versions(settings, versions)
    parts = env_parts("chatbot", config=config, overrides=overrides)
    try:
        run = RunDirectory(settings.run)
        refused = [name for name in parts.counterparts if not was_taken(run, name)]
        users = served_users(parts.counterparts, versions, refused)
        # uvicorn shuts down and raises the signal again; unhandled, it would kill this process before the engines stop.
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
        app = RequestLimits(user_app(users, Scenarios(parts.scenarios), api_key=key))
        uvicorn.run(app, host=host, port=port, log_level="warning")
    finally:
        parts.close()


def served_users(
    simulators: Mapping[str, UserSimulator], versions: Sequence[str] = (), refused: Collection[str] = ()
) -> dict[str, UserSimulator]:
    """Returns the simulators of these versions by name; without versions, the newest that is not ``refused``.

    Ensemble weights do not matter.

    Raises:
        ConfigError: there is no such version.
    """
    if unknown := [name for name in versions if name not in simulators]:
        raise ConfigError(f"no simulator {unknown[0]!r}; {there_are(list(simulators), unknown[0])}")
    newest = max([name for name in simulators if name not in refused] or simulators, key=version_order)
    return {name: simulators[name] for name in versions or (newest,)}


def user_app(
    users: Mapping[str, UserSimulator],
    scenarios: Scenarios,
    *,
    api_key: str | None = None,
    most_messages: int = 50_000,
) -> FastAPI:
    """Returns the web application.

    Args:
        users: simulators by the model name of requests.
        scenarios: the contexts that requests may choose.
        api_key: the API key that every request must have; None requires none.
        most_messages: number of sampled messages whose tokens are cached.
    """
    app = FastAPI(title="rlenv user", docs_url=None, redoc_url=None)
    known = SampledMessages(most_messages)
    app.state.known = known

    def check_key(request: Request) -> None:
        given = re.sub(r"^bearer\s+", "", request.headers.get("authorization", ""), flags=re.IGNORECASE)
        if api_key is not None and not hmac.compare_digest(given.encode(), api_key.encode()):
            raise RequestError("the API key is missing or wrong", code="invalid_api_key", status=401)

    def check_model(name: str) -> None:
        if name not in users:
            message = f"no model {name!r}; {there_are(users, name)}"
            raise RequestError(message, param="model", code="model_not_found", status=404)

    @app.get("/v1/models")
    async def models(request: Request) -> dict[str, Any]:
        check_key(request)
        return {"object": "list", "data": [_model(name) for name in users]}

    @app.get("/v1/models/{name:path}")
    async def model(request: Request, name: str) -> dict[str, Any]:
        check_key(request)
        check_model(name)
        return _model(name)

    @app.post("/v1/chat/completions", response_model=None)
    async def complete(request: Request, body: UserRequest) -> dict[str, Any] | StreamingResponse:
        check_key(request)
        check_model(body.model)
        seed = secrets.randbelow(2**31) if body.seed is None else body.seed
        user = users[body.model]
        state, key = state_of(body, scenarios, known, seed)
        seeds = [reply_seed(state, *(("choice", i) if i else ())) for i in range(body.n)]
        replies = [_whole(u) for u in await all_of(lambda choice_seed: user.reply(state, choice_seed), seeds)]
        for reply in replies:
            known.keep(next_key(key, "user", reply.text), reply)
        answer = _answer(body, user, state, replies)
        if not body.stream:
            return answer
        usage = bool((body.stream_options or {}).get("include_usage"))
        return StreamingResponse(_events(answer, usage), media_type="text/event-stream")

    _register_errors(app)
    app.add_middleware(QuietErrors)
    return app


class QuietErrors:
    """An ASGI application that answers 500 where the one behind it raises; the log has the place, never a text."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or answers it."""
        begun = False

        async def noted(message: Message) -> None:
            nonlocal begun
            begun = True
            await send(message)

        try:
            await self.app(scope, receive, noted)
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{type(error).__name__} in {Path(frame.filename).name}:{frame.lineno}"
            log.error("a request failed: %s", place)
            if not begun:
                await _error(500, f"this is a fault of rlenv: {place}", code="internal_error")(scope, receive, send)


def _whole(reply: Utterance) -> Utterance:
    """Returns a message as JSON can carry it, without halves of emojis; the client sends this text back."""
    text = encodable(reply.text)
    return reply if text == reply.text else reply.model_copy(update={"text": text})


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "rlenv"}


def _answer(
    body: UserRequest, user: UserSimulator, state: ConversationState, replies: Sequence[Utterance]
) -> dict[str, Any]:
    choices = [
        {
            "index": i,
            "message": {"role": "assistant", "content": reply.text},
            "finish_reason": "length" if reply.truncated else "stop",
            "logprobs": None,
            "rlenv": {"ended": reply.ends_session},
        }
        for i, reply in enumerate(replies)
    ]
    prompt, completion = _num_tokens(user, state, replies)
    return {
        "id": f"chatcmpl-{secrets.token_hex(12)}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": body.model,
        "choices": choices,
        "usage": {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion},
        "rlenv": {
            "context_id": state.context_id,
            "seed": state.seed,
            "simulator": describe(user).key,
            "ignored": body.ignored(),
            "passed_over": body.num_passed_over(),
        },
    }


def _events(answer: dict[str, Any], usage: bool) -> Iterator[str]:
    """Yields an answer as server-sent events: each choice's message, its end, and at last the usage if it is wanted."""
    head = answer | {"object": "chat.completion.chunk"}
    numbers = head.pop("usage")

    def event(choices: list[dict[str, Any]], **more: Any) -> str:
        return f"data: {json.dumps(head | {'choices': choices} | more)}\n\n"

    for choice in answer["choices"]:
        begun = {"index": choice["index"], "delta": choice["message"], "logprobs": None, "finish_reason": None}
        yield event([begun])
        yield event([{**begun, "delta": {}, "finish_reason": choice["finish_reason"], "rlenv": choice["rlenv"]}])
    if usage:
        yield event([], usage=numbers)
    yield "data: [DONE]\n\n"


def _num_tokens(user: UserSimulator, state: ConversationState, replies: Sequence[Utterance]) -> tuple[int, int]:
    """Returns the number of tokens of the prompt and of all choices; estimated where the user is not a model."""
    if isinstance(user, EngineSpeaker):
        return len(user.prompt(state)), sum(len(reply.token_ids) for reply in replies)
    prompt = sum(approximate_tokens(turn.utterance.text) for turn in state.turns)
    return prompt, sum(approximate_tokens(reply.text) for reply in replies)


def _register_errors(app: FastAPI) -> None:
    """Returns every error in the form of OpenAI's API, without message text."""

    @app.exception_handler(RequestError)
    async def _request(_: Request, error: RequestError) -> JSONResponse:
        return _error(error.status, str(error), error.param, error.code)

    @app.exception_handler(RequestValidationError)
    async def _fields(request: Request, error: RequestValidationError) -> JSONResponse:
        problems = [(".".join(map(str, e["loc"][1:])), e) for e in error.errors()]
        if any(e["type"] == "json_invalid" for _, e in problems):
            return _error(400, "body: expected JSON, got something else")
        if not request.headers.get("content-type", "").partition(";")[0].strip().endswith("json"):
            return _error(400, "expected the header Content-Type: application/json, and a body of JSON")
        message = "; ".join(f"{where or 'body'}: {_problem(e)}" for where, e in problems)
        return _error(400, message, problems[0][0] or None)

    @app.exception_handler(OverlongError)
    async def _overlong(_: Request, error: OverlongError) -> JSONResponse:
        return _error(400, str(error), "messages", "context_length_exceeded")

    @app.exception_handler(RlenvError)
    async def _other(_: Request, error: RlenvError) -> JSONResponse:
        return _error(503, str(error), code="engine_error")

    @app.exception_handler(HTTPException)
    async def _http(_: Request, error: HTTPException) -> JSONResponse:
        return _error(error.status_code, OTHER_PATH if error.status_code == 404 else str(error.detail))


def _problem(error: Mapping[str, Any]) -> str:
    """Returns what is wrong with a field, in words."""
    if error["type"] == "missing":
        return "expected this field"
    form = EXPECTED.get(error["type"])
    if form is None:
        return str(error["msg"]).removeprefix("Value error, ")
    return f"expected {form.format(**error.get('ctx', {}))}"


def _error(status: int, message: str, param: str | None = None, code: str | None = None) -> JSONResponse:
    kind = {401: "authentication_error", 500: "server_error", 503: "server_error"}.get(status, "invalid_request_error")
    shape = {"message": message, "type": kind, "param": param, "code": code}
    return JSONResponse({"error": shape}, status_code=status)
