"""The client of OpenAI-compatible endpoints, for chat and for embeddings.

Handles retries, time-outs, outages and the server's limits. Errors are raised as rlenv's own, without any text of
requests or answers. Imports openai only when a client is created.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import re
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from rlenv.core.errors import ConfigError, EngineError, OverlongError, RlenvError, UnreachableError
from rlenv.core.progress import progressed
from rlenv.prompting.cutting import encodable
from rlenv.speakers.breaker import Breaker
from rlenv.speakers.chat_answers import NAME, ChatAnswer, NoCompletion, read_answer
from rlenv.speakers.refusals import is_overlong, refused_options, refuses_system, unknown_option

if TYPE_CHECKING:
    import openai

log = logging.getLogger(__name__)
TIMEOUT_S = 120.0
"""Seconds for one attempt of a request."""
PASSING = (408, 409, 429)
"""States below 500 of a server that may answer later."""
MAX_SHOWN = 200
"""Maximum number of characters of refused options in a message."""

ChatMessages = list[dict[str, str]]
"""``{"role": "system" | "user" | "assistant", "content": text}``, in order."""
Schema = dict[str, Any]
"""The JSON schema of an answer."""


class OpenAIClient:
    """A model behind an OpenAI-compatible endpoint; connects at the first request.

    Args:
        base_url: the API's root, for example ``http://localhost:8000/v1``.
        model: the model's name on the server.
        key_env: NAME of the environment variable with the API key; None if the server needs none.
        timeout_s: time limit of one attempt, in seconds.
        retries: retries per request after errors that may pass (overload, time-outs, broken connections).
        name: the caller's name, for errors.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        key_env: str | None = None,
        *,
        timeout_s: float = TIMEOUT_S,
        retries: int = 4,
        name: str = "",
    ) -> None:
        self.base_url = base_url
        self.model = model
        self.place = f"{name}: {model} at {base_url}" if name else f"{model} at {base_url}"
        self.breaker = Breaker(self.place)
        """Holds requests back while the endpoint fails all of them."""
        self._key_env = key_env
        self._timeout_s = timeout_s
        self._retries = retries
        self._refused: set[str] = set()
        """Options that the model has refused so far; requests leave them out."""
        self._folds_system = False
        """Whether the model has refused system messages; their text then begins the first user message."""
        self._client: Any = None
        self._client_pid = 0
        """The process that made the client."""

    async def chat(
        self,
        messages: ChatMessages,
        *,
        max_tokens: int,
        seed: int,
        schema: Schema | None = None,
        reasoning_effort: str | None = None,
        **sampling: float,
    ) -> ChatAnswer:
        """Returns the answer to a chat.

        An option that the model does not know, such as ``seed``, is left out of this and all later requests, with one
        warning. ``max_tokens`` becomes ``max_completion_tokens``, as reasoning models want it.

        Args:
            messages: the chat.
            max_tokens: longest answer, in tokens.
            seed: sampling seed.
            schema: the answer is constrained to JSON that follows it if the server supports that; check it anyway.
            reasoning_effort: for reasoning models, such as "low"; None leaves it to the server.
            **sampling: ``temperature``, ``top_p``.

        Raises:
            OverlongError: the chat does not fit the model.
            UnreachableError: no answer after retries: no connection, time-outs, overload, errors of the server.
            EngineError: the endpoint has answered nothing for too long (``Breaker``), refused the request, or gave no
                chat completion after retries.
            ConfigError: no request can succeed (a wrong key, an unknown model, no address).
        """
        wanted: dict[str, Any] = {**sampling, "seed": seed, "max_tokens": max_tokens}
        if reasoning_effort:
            wanted["reasoning_effort"] = reasoning_effort
        if schema is not None:
            form = {"name": "reply", "schema": schema, "strict": True}
            wanted["response_format"] = {"type": "json_schema", "json_schema": form}
        messages = [{**message, "content": encodable(message["content"])} for message in messages]
        for attempt in range(self._retries + 1):
            response = await self.breaker.call(lambda: self._asked(messages, wanted))
            try:
                return read_answer(response, self.place)
            except NoCompletion as error:
                if attempt == self._retries:
                    raise EngineError(f"{self.place}: {error}, {attempt + 1} times") from None
            await asyncio.sleep(min(0.5 * 2**attempt, 8.0) * random.uniform(0.75, 1.0))
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def _asked(self, messages: ChatMessages, wanted: Mapping[str, Any]) -> Any:
        """Returns the server's response, asked without the options that the model refuses."""
        import openai

        create = self._connected().chat.completions.create
        while True:
            options = self._options(wanted)
            folds = self._folds_system
            sent = _folded(messages) if folds else messages
            try:
                return await create(model=self.model, messages=sent, **options)
            except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
                if is_overlong(error) or not (self._learn(error, options) or self._learn_roles(error, sent)):
                    raise self._as_ours(error, options) from None
            except openai.APIError as error:
                raise self._as_ours(error) from None
            except ValueError:  # JSON that ends early, for example
                return None

    def _options(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        options = {name: value for name, value in wanted.items() if name not in self._refused}
        if "max_tokens" in self._refused and "max_completion_tokens" not in self._refused:
            options["max_completion_tokens"] = wanted["max_tokens"]
        return options

    def _learn(self, error: openai.APIStatusError, options: Mapping[str, Any]) -> bool:
        """Returns whether the model does not know one of the options, which is then left out from now on.

        Other requests may be under way with the same options, so what counts is what this one has sent.
        """
        option = unknown_option(error, options)
        if option is None:
            return False
        if option not in self._refused:
            self._refused.add(option)
            log.warning("%s: the model does not take %s, so it is asked without", self.place, option)
        return True

    def _learn_roles(self, error: openai.APIStatusError, sent: ChatMessages) -> bool:
        """Returns whether the model does not take the system message that it was sent."""
        if sent[0]["role"] != "system" or not refuses_system(error):
            return False
        if not self._folds_system:
            self._folds_system = True
            log.warning("%s: the model takes no system message, so its text begins the first user message", self.place)
        return True

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Returns a vector for each text, from one request.

        Raises:
            OverlongError, EngineError, ConfigError: as in ``chat``; EngineError also if a text has no vector.
        """
        response = await self.breaker.call(lambda: self._embedded(list(texts)))
        data = sorted(response.data or (), key=lambda item: item.index)
        if [item.index for item in data] != list(range(len(texts))):
            raise EngineError(f"{self.place}: expected {len(texts)} vectors, got {len(data)}")
        return [item.embedding for item in data]

    async def _embedded(self, texts: list[str]) -> Any:
        import openai

        create = self._connected().embeddings.create
        try:
            return await create(model=self.model, input=texts, encoding_format="float")
        except openai.APIError as error:
            raise self._as_ours(error) from None

    def _connected(self) -> Any:
        """Returns an ``openai.AsyncOpenAI``.

        Its ``max_retries`` wait with growing, random pauses, or as long as the server's Retry-After says if that is two
        minutes or less.

        Raises:
            ConfigError: the environment variable of the key is not set, or the address is none.
        """
        if self._client is None or self._client_pid != os.getpid():  # a fork must not share its parent's connections
            from openai import AsyncOpenAI

            _check_address(self.base_url, self.place)
            key = os.environ.get(self._key_env, "").strip() if self._key_env else "none"
            if not key:
                raise ConfigError(
                    f"the environment variable {self._key_env} is not set; set it to the API key of {self.base_url}"
                )
            if not re.fullmatch(r"[!-~]+", key):
                raise ConfigError(
                    f"the environment variable {self._key_env} has characters that no API key has, such as a blank, a "
                    "line break or a typographic quotation mark; set it again"
                )
            self._client = AsyncOpenAI(
                base_url=self.base_url,
                api_key=key,
                timeout=self._timeout_s,
                max_retries=self._retries,
                http_client=_http_client(self._timeout_s),
            )
            self._client_pid = os.getpid()
        return self._client

    def _as_ours(self, error: Exception, options: Mapping[str, Any] | None = None) -> RlenvError:
        """Returns rlenv's error for an ``openai.APIError``.

        Args:
            error: the error.
            options: the options of the request, of which the message names those that the server has named.
        """
        import openai

        if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError | openai.NotFoundError):
            key = f"the key in {self._key_env}" if self._key_env else "whether the server needs an API key"
            return ConfigError(f"{self.place}: status {error.status_code}; check the address, the model and {key}")
        if isinstance(error, openai.BadRequestError | openai.UnprocessableEntityError):
            if is_overlong(error):
                return OverlongError(f"{self.place}: a request exceeds the model's context length")
            what = "a request"
            if named := refused_options(error, options or {}):
                what = " and ".join(f"{name}={options[name]!r}" for name in named if options)[:MAX_SHOWN]
            details = [f"status {error.status_code}"]
            # Only short identifiers of the server: its sentences may quote the conversation.
            details += [f"{n} {v}" for n in ("param", "code") if (v := getattr(error, n)) and NAME.fullmatch(str(v))]
            return EngineError(f"{self.place}: refused {what} ({', '.join(details)})")
        if isinstance(error, openai.APIStatusError):
            passing = error.status_code >= 500 or error.status_code in PASSING
            wait = error.response.headers.get("retry-after", "")
            asks = f" (Retry-After: {wait})" if passing and NAME.fullmatch(wait) else ""
            kind = UnreachableError if passing else EngineError
            return kind(f"{self.place}: status {error.status_code} after {self._retries} retries{asks}")
        return UnreachableError(f"{self.place}: {type(error).__name__} after {self._retries} retries")


def _http_client(timeout_s: float) -> Any:
    """Returns openai's own HTTP client, in which a whole attempt has ``timeout_s`` seconds.

    Without it, each part of an answer would have as many, and a server that sends a byte now and then would never end.
    """
    import openai

    (parent,) = openai.DefaultAsyncHttpxClient.__bases__
    library = sys.modules[parent.__module__.partition(".")[0]]  # httpx or its successor, whichever openai uses

    class Client(openai.DefaultAsyncHttpxClient):
        async def send(self, request: Any, **options: Any) -> Any:
            try:
                async with asyncio.timeout(timeout_s):
                    return await super().send(request, **options)
            except TimeoutError:
                raise library.ReadTimeout("", request=request) from None
            finally:
                progressed()

    return Client(timeout=timeout_s)


def _check_address(base_url: str, place: str) -> None:
    """Checks that requests can be sent to an address.

    Raises:
        ConfigError: it is no address.
    """
    try:
        parts = urlsplit(base_url)
        (parts.hostname or "").encode("idna")
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        is_address = is_address and not re.search(r"[\s\x00-\x20]", base_url)
    except ValueError:
        is_address = False
    if not is_address:
        raise ConfigError(f"{place}: this is no address; expected one as http://host:8000/v1")


def _folded(messages: ChatMessages) -> ChatMessages:
    """Returns the chat without system messages: their text begins the first message, which is the user's."""
    system = "\n\n".join(m["content"] for m in messages if m["role"] == "system")
    rest = [m for m in messages if m["role"] != "system"]
    if rest and rest[0]["role"] == "user":
        return [{"role": "user", "content": f"{system}\n\n{rest[0]['content']}"}, *rest[1:]]
    return [{"role": "user", "content": system}, *rest]
