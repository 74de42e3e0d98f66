"""One way to a model behind an OpenAI-compatible endpoint, for all who ask one for text or for vectors.

Retries, time-outs and the server's limits are met here; errors come out as ours, without anything of what was sent or
came back. openai is imported where a client is made.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rlenv.core.errors import ConfigError, EngineError, OverlongError, RlenvError

ChatMessages = list[dict[str, str]]
"""``{"role": "system" | "user" | "assistant", "content": text}``, in order."""
Schema = dict[str, Any]
"""A JSON schema that an answer is to follow."""


@dataclass(frozen=True)
class ChatAnswer:
    """What a model answered."""

    text: str
    """Stripped; empty if the model said nothing."""
    truncated: bool = False
    """The token cap cut it."""


class OpenAIClient:
    """A model behind an OpenAI-compatible endpoint; connects with the first request.

    Args:
        base_url: the API's root, for example ``http://localhost:8000/v1``.
        model: the model's name there.
        key_env: NAME of the environment variable that holds the key; None for a server without one.
        timeout_s: of one try.
        retries: of one request, where trying again can help (overload, time-outs, broken connections).
        name: who asks, for errors.
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        key_env: str | None = None,
        *,
        timeout_s: float = 120.0,
        retries: int = 4,
        name: str = "",
    ) -> None:
        self.base_url = base_url
        self.model = model
        self.place = f"{name}: {model} at {base_url}" if name else f"{model} at {base_url}"
        self._key_env = key_env
        self._timeout_s = timeout_s
        self._retries = retries
        self._reasons = False
        """The model takes neither sampling settings nor ``max_tokens``, as reasoning models do: found out by asking."""
        self._formats = True
        """The server takes ``response_format``: until it refuses."""
        self._client: Any = None

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

        Args:
            messages: the chat.
            max_tokens: longest answer.
            seed: of sampling.
            schema: the answer is JSON that follows it, where the server can see to that; check it all the same.
            reasoning_effort: of a reasoning model, as "low"; None leaves it to the server.
            **sampling: ``temperature``, ``top_p``.

        Raises:
            OverlongError: the chat does not fit the model.
            EngineError: the endpoint failed, after retries.
            ConfigError: no request can succeed (a wrong key, an unknown model).
        """
        import openai

        limits: dict[str, Any] = {"max_tokens": max_tokens, **sampling}
        if self._reasons:
            limits = {"max_completion_tokens": max_tokens}
        more: dict[str, Any] = {"reasoning_effort": reasoning_effort} if reasoning_effort else {}
        if schema is not None and self._formats:
            form = {"name": "reply", "schema": schema, "strict": True}
            more["response_format"] = {"type": "json_schema", "json_schema": form}
        try:
            create = self._connected().chat.completions.create
            response = await create(model=self.model, messages=messages, seed=seed, **limits, **more)
        except openai.BadRequestError as error:
            if "max_tokens" in limits and error.param in limits:
                self._reasons = True
            elif "response_format" in more and "response_format" in f"{error.param} {error}":
                self._formats = False
            else:
                raise self._as_ours(error) from None
            return await self.chat(
                messages,
                max_tokens=max_tokens,
                seed=seed,
                schema=schema,
                reasoning_effort=reasoning_effort,
                **sampling,
            )
        except openai.APIError as error:
            raise self._as_ours(error) from None
        if not response.choices:
            return ChatAnswer(text="")
        choice = response.choices[0]
        return ChatAnswer((choice.message.content or "").strip(), choice.finish_reason == "length")

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Returns a vector for each text of one request.

        Raises:
            OverlongError, EngineError, ConfigError: as ``chat``; and where not every text has a vector.
        """
        import openai

        try:
            create = self._connected().embeddings.create
            response = await create(model=self.model, input=list(texts), encoding_format="float")
        except openai.APIError as error:
            raise self._as_ours(error) from None
        data = sorted(response.data or (), key=lambda item: item.index)
        if [item.index for item in data] != list(range(len(texts))):
            raise EngineError(f"{self.place}: expected {len(texts)} vectors, got {len(data)}")
        return [item.embedding for item in data]

    def _connected(self) -> Any:
        """Returns an ``openai.AsyncOpenAI``.

        Raises:
            ConfigError: the variable of the key is not set.
        """
        if self._client is None:
            from openai import AsyncOpenAI

            key = os.environ.get(self._key_env) if self._key_env else "none"
            if not key:
                raise ConfigError(
                    f"the environment variable {self._key_env} is not set; it holds the key of {self.base_url}"
                )
            self._client = AsyncOpenAI(
                base_url=self.base_url, api_key=key, timeout=self._timeout_s, max_retries=self._retries
            )
        return self._client

    def _as_ours(self, error: Exception) -> RlenvError:
        """Returns what an ``openai.APIError`` is to whoever runs rlenv."""
        import openai

        if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError | openai.NotFoundError):
            known = f"the key in {self._key_env}"
            key = known if self._key_env else "whether a key is needed (an option names its variable)"
            return ConfigError(f"{self.place}: status {error.status_code}; check the address, the model and {key}")
        if isinstance(error, openai.BadRequestError):
            if error.code == "context_length_exceeded" or "context length" in str(error):
                return OverlongError(f"{self.place}: a request is longer than the model takes")
            return EngineError(f"{self.place}: refused a request (status {error.status_code})")
        if isinstance(error, openai.APIStatusError):
            return EngineError(f"{self.place}: status {error.status_code} after {self._retries} retries")
        return EngineError(f"{self.place}: {type(error).__name__} after {self._retries} retries")
