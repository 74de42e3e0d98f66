"""Language models for summaries and judging, behind an OpenAI-compatible endpoint or on one of our engines.

Both have one method, ``complete``. A cache on disk can wrap either, so that no request is sent twice. Independent of
sessions.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from rlenv.core.errors import EngineError
from rlenv.core.files import write_atomic
from rlenv.core.protocols import Engine
from rlenv.core.types import Sampling, Turn, Utterance
from rlenv.prompting.chat_format import chat_format
from rlenv.prompting.cutting import encodable
from rlenv.speakers.openai_client import TIMEOUT_S, ChatMessages, OpenAIClient, Schema
from rlenv.speakers.thoughts import without_thoughts


class Completer(Protocol):
    """A language model that answers one chat."""

    name: str
    """Model and settings; part of the cache's key."""

    async def complete(self, messages: ChatMessages, max_tokens: int, seed: int, schema: Schema | None = None) -> str:
        """Returns the text of the answer, stripped; empty if the model generated none.

        With a schema, sampling is constrained to JSON that follows it if the backend supports that; check it anyway.

        Raises:
            EngineError: the model failed, after retries.
            OverlongError: the chat does not fit the model.
            ConfigError: no request can succeed (a wrong key, an unknown model).
        """
        ...


class EndpointCompleter:
    """A model behind an OpenAI-compatible endpoint.

    Args:
        base_url: the API's root, for example ``http://localhost:8000/v1``.
        model: the model's name on the server.
        key_env: NAME of the environment variable with the API key; None if the server needs none.
        temperature: sampling temperature.
        reasoning_effort: for reasoning models, such as "low"; None leaves it to the server.
        timeout_s: time limit of one attempt, in seconds.
        retries: retries per request after errors that may pass (overload, time-outs, broken connections).
    """

    def __init__(
        self,
        base_url: str,
        model: str,
        key_env: str | None = None,
        *,
        temperature: float = 0.3,
        reasoning_effort: str | None = None,
        timeout_s: float = TIMEOUT_S,
        retries: int = 4,
    ) -> None:
        effort = f", reasoning {reasoning_effort}" if reasoning_effort else ""
        self.name = f"{model} at {base_url}, temperature {temperature}{effort}"
        self._client = OpenAIClient(base_url, model, key_env, timeout_s=timeout_s, retries=retries)
        self._temperature = temperature
        self._effort = reasoning_effort

    async def complete(self, messages: ChatMessages, max_tokens: int, seed: int, schema: Schema | None = None) -> str:
        """Returns the endpoint's answer; see ``Completer``."""
        answer = await self._client.chat(
            messages,
            max_tokens=max_tokens,
            seed=seed,
            schema=schema,
            reasoning_effort=self._effort,
            temperature=self._temperature,
        )
        if answer.refused:
            raise EngineError(f"{self._client.place}: the model refused to answer")
        return answer.text


class EngineCompleter:
    """A model on one of our engines.

    Args:
        engine: the engine; token ids in, token ids out.
        tokenizer: the model's tokenizer from transformers, with a chat template.
        name: the model's name, for the cache's key.
        temperature: sampling temperature.
        structured: whether the engine can constrain an answer to a schema; if not, schemas are ignored.
    """

    def __init__(
        self, engine: Engine, tokenizer: Any, name: str, *, temperature: float = 0.3, structured: bool = False
    ) -> None:
        self.engine = engine
        self.name = f"{name}, temperature {temperature}"
        self._structured = structured
        self._chat = chat_format(tokenizer)
        self._temperature = temperature

    async def complete(self, messages: ChatMessages, max_tokens: int, seed: int, schema: Schema | None = None) -> str:
        """Returns the engine's answer; see ``Completer``."""
        system = "\n\n".join(m["content"] for m in messages if m["role"] == "system")
        turns = [
            Turn(role="user" if m["role"] == "user" else "assistant", utterance=Utterance(text=m["content"]))
            for m in messages
            if m["role"] != "system"
        ]
        sampling = Sampling(
            temperature=self._temperature,
            top_p=1.0,
            max_tokens=max_tokens,
            seed=seed,
            stop_token_ids=self._chat.stop_token_ids,
            json_schema=json.dumps(schema) if schema is not None and self._structured else None,
        )
        generation = await self.engine.generate(self._chat.prompt(system, turns, "chatbot"), sampling)
        return without_thoughts(self._chat.read_reply(generation.token_ids)[0])

    def count_tokens(self, text: str) -> int:
        """Returns the number of tokens of a text, without special tokens."""
        return self._chat.count(text)


class CachedCompleter:
    """A completer that caches its answers in a folder, so that a killed run can resume.

    The key is a hash of model, messages, length, seed and schema; prompts are not stored. Equal requests at the same
    time are sent once.
    """

    def __init__(self, completer: Completer, folder: str | Path) -> None:
        self.name = completer.name
        self.num_asked = 0
        self.num_cached = 0
        self._completer = completer
        self._folder = Path(folder)
        self._pending: dict[str, asyncio.Task[str]] = {}

    async def complete(self, messages: ChatMessages, max_tokens: int, seed: int, schema: Schema | None = None) -> str:
        """Returns the answer, cached or new; see ``Completer``. Empty answers are not cached."""
        key = _key(self.name, messages, max_tokens, seed, schema)
        if (known := self._known(key)) is not None:
            self.num_cached += 1
            return known
        if key in self._pending:
            self.num_cached += 1
        else:
            task = asyncio.ensure_future(self._ask(key, messages, max_tokens, seed, schema))
            self._pending[key] = task
            task.add_done_callback(lambda done: self._forget_pending(key, done))
        # Shielded: the session that asked first may be given up while others wait for the same answer.
        return await asyncio.shield(self._pending[key])

    def _forget_pending(self, key: str, done: asyncio.Task[str]) -> None:
        del self._pending[key]
        if not done.cancelled():
            done.exception()  # has been raised to whoever still waits

    def forget(self, messages: ChatMessages, max_tokens: int, seed: int, schema: Schema | None = None) -> None:
        """Removes an unusable answer from the cache, so that the next run asks again."""
        self._path(_key(self.name, messages, max_tokens, seed, schema)).unlink(missing_ok=True)

    async def _ask(self, key: str, messages: ChatMessages, max_tokens: int, seed: int, schema: Schema | None) -> str:
        text = encodable(await self._completer.complete(messages, max_tokens, seed, schema)).strip()
        self.num_asked += 1
        if text:
            write_atomic(self._path(key), [json.dumps({"text": text, "model": self.name}).encode()])
        return text

    def _known(self, key: str) -> str | None:
        try:
            text = json.loads(self._path(key).read_bytes())["text"]
        except (OSError, ValueError, KeyError, TypeError):
            return None  # missing or damaged: ask again
        return text if isinstance(text, str) and text else None

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.json"


def _key(
    name: str, messages: Sequence[dict[str, str]], max_tokens: int, seed: int, schema: Schema | None = None
) -> str:
    request = [name, list(messages), max_tokens, seed, *([schema] if schema is not None else [])]
    content = json.dumps(request, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()
