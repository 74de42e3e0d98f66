"""The client of OpenAI-compatible endpoints, for chat and for embeddings.

Handles retries, time-outs and the server's limits. Errors are raised as rlenv's own, without any text of requests or
answers. Imports openai only when a client is created.
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
"""The JSON schema of an answer."""


@dataclass(frozen=True)
class ChatAnswer:
    """A model's answer."""

    text: str
    """The text, stripped; empty if the model generated none."""
    truncated: bool = False
    """Whether the limit of tokens cut the answer."""


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
        """The model refused sampling settings and ``max_tokens``, as reasoning models do."""
        self._formats = True
        """The server has not refused ``response_format`` so far."""
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
            max_tokens: longest answer, in tokens.
            seed: sampling seed.
            schema: the answer is constrained to JSON that follows it if the server supports that; check it anyway.
            reasoning_effort: for reasoning models, such as "low"; None leaves it to the server.
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
        options: dict[str, Any] = {"reasoning_effort": reasoning_effort} if reasoning_effort else {}
        if schema is not None and self._formats:
            form = {"name": "reply", "schema": schema, "strict": True}
            options["response_format"] = {"type": "json_schema", "json_schema": form}
        try:
            create = self._connected().chat.completions.create
            response = await create(model=self.model, messages=messages, seed=seed, **limits, **options)
        except openai.BadRequestError as error:
            if "max_tokens" in limits and error.param in limits:
                self._reasons = True
            elif "response_format" in options and "response_format" in f"{error.param} {error}":
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
        """Returns a vector for each text, from one request.

        Raises:
            OverlongError, EngineError, ConfigError: as in ``chat``; EngineError also if a text has no vector.
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
            ConfigError: the environment variable of the key is not set.
        """
        if self._client is None:
            from openai import AsyncOpenAI

            key = os.environ.get(self._key_env) if self._key_env else "none"
            if not key:
                raise ConfigError(
                    f"the environment variable {self._key_env} is not set; set it to the API key of {self.base_url}"
                )
            self._client = AsyncOpenAI(
                base_url=self.base_url, api_key=key, timeout=self._timeout_s, max_retries=self._retries
            )
        return self._client

    def _as_ours(self, error: Exception) -> RlenvError:
        """Returns rlenv's error for an ``openai.APIError``."""
        import openai

        if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError | openai.NotFoundError):
            key = f"the key in {self._key_env}" if self._key_env else "whether the server needs an API key"
            return ConfigError(f"{self.place}: status {error.status_code}; check the address, the model and {key}")
        if isinstance(error, openai.BadRequestError):
            if error.code == "context_length_exceeded" or "context length" in str(error):
                return OverlongError(f"{self.place}: a request exceeds the model's context length")
            return EngineError(f"{self.place}: refused a request (status {error.status_code})")
        if isinstance(error, openai.APIStatusError):
            return EngineError(f"{self.place}: status {error.status_code} after {self._retries} retries")
        return EngineError(f"{self.place}: {type(error).__name__} after {self._retries} retries")
