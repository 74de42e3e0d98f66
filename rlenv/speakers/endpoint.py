"""Speakers behind an OpenAI-compatible endpoint or a Python function: text in, text out.

Zero-shot models can take the user's seat this way, with the simulator's prompt (Section 4.2). Token ids and log-probs
are not available, so their messages cannot be trained on; they can be judged, compared and evaluated.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
from collections.abc import Awaitable, Callable
from typing import Any

from rlenv.core.errors import ConfigError, EngineError, there_are
from rlenv.core.types import ROLE_OF_SEAT, ConversationState, Sampling, Seat, Utterance
from rlenv.env.provenance import SpeakerCard
from rlenv.prompting.system_texts import SystemText
from rlenv.speakers.chat_answers import ChatAnswer
from rlenv.speakers.openai_client import TIMEOUT_S, ChatMessages, OpenAIClient

CALLABLE_TIMEOUT_S = 600.0
"""Seconds for a reply of an async function."""
END_MARK = "[END]"
"""With this mark a prompted user ends the session. The prompt asks for it, and it is removed from the text."""


def chat_messages(state: ConversationState, seat: Seat, system: str) -> list[dict[str, str]]:
    """Returns the conversation as chat messages; the seat's own messages have the role ``assistant``."""
    messages = [{"role": "system", "content": system}]
    for turn in state.turns:
        role = "assistant" if turn.role == ROLE_OF_SEAT[seat] else "user"
        messages.append({"role": role, "content": turn.utterance.text})
    if len(messages) == 1:
        messages.append({"role": "user", "content": "(The session begins. Send your first message.)"})
    return messages


def _instructed(system: str, seat: Seat) -> str:
    """Returns the system text, for the user's seat with instructions how to end the session; a chatbot never ends
    it."""
    if seat == "chatbot":
        return system
    return f"{system}\n\nWhen you would leave or the conversation is over, end your message with {END_MARK}."


def _utterance(text: str, seat: Seat, truncated: bool = False) -> Utterance:
    ends = seat == "user" and END_MARK in text
    return Utterance(text=text.replace(END_MARK, "").strip(), ends_session=ends, truncated=truncated)


class EndpointSpeaker:
    """A speaker backed by a model behind an OpenAI-compatible endpoint.

    Args:
        name: the speaker's name in records.
        seat: the seat that it takes.
        base_url: the API's root, for example ``http://localhost:8000/v1``.
        model: the model's name on the server.
        api_key_env: name of the environment variable with the API key; None if the server needs none.
        system_text: builds the system message from a context.
        sampling: temperature, top_p, max_tokens; the seed is set for each reply.
        concurrency: concurrent requests.
        timeout_s: time limit of one attempt, in seconds; None is ``TIMEOUT_S``.
        retries: retries per request after errors that may pass.
    """

    def __init__(
        self,
        name: str,
        seat: Seat,
        base_url: str,
        model: str,
        api_key_env: str | None,
        system_text: SystemText,
        sampling: Sampling,
        *,
        concurrency: int = 32,
        timeout_s: float | None = None,
        retries: int = 4,
    ) -> None:
        self.name = name
        self.seat = seat
        self.model = model
        self.system_text = system_text
        self.sampling = sampling
        self._client = OpenAIClient(
            base_url, model, api_key_env, timeout_s=timeout_s or TIMEOUT_S, retries=retries, name=name
        )
        self._limit = asyncio.Semaphore(concurrency)

    def describe(self) -> SpeakerCard:
        """Returns the speaker's card for records; an endpoint has no version but its model's name."""
        return SpeakerCard(name=self.name, kind="endpoint", model=self.model, sampling=self.sampling)

    async def reply(self, state: ConversationState, seed: int) -> Utterance:
        """Returns the seat's next message.

        Raises:
            OverlongError: the conversation does not fit the model.
            EngineError: the endpoint failed after all retries, or the model gave no message.
            ConfigError: no request can succeed (a wrong key, an unknown model).
        """
        system = _instructed(self.system_text(state.context), self.seat)
        answer = await self._asked(chat_messages(state, self.seat, system), seed)
        if answer.refused and self.seat == "user":  # a chatbot's refusal is what people would read
            raise EngineError(f"{self._client.place}: the model refused to take the user's seat")
        if not answer.text and answer.truncated:
            raise EngineError(
                f"{self._client.place}: no message within sampling.max_tokens = {self.sampling.max_tokens}; raise it "
                "(the thoughts of a reasoning model count)"
            )
        return _utterance(answer.text, self.seat, answer.truncated)

    async def _asked(self, messages: ChatMessages, seed: int) -> ChatAnswer:
        async with self._limit:
            return await self._client.chat(
                messages,
                max_tokens=self.sampling.max_tokens,
                seed=seed,
                temperature=self.sampling.temperature,
                top_p=self.sampling.top_p,
            )


Reply = Callable[[list[dict[str, str]], int], str | Awaitable[str]]
"""The function of a callable speaker: takes (chat messages, seed), returns text."""


class CallableSpeaker:
    """A speaker backed by a Python function ``reply(messages, seed) -> str``, plain or async.

    Args:
        name: the speaker's name in records.
        seat: the seat that it takes.
        function: the function.
        system_text: builds the system message from a context.
        timeout_s: time limit of a reply of an async function, in seconds; None is ``CALLABLE_TIMEOUT_S``. A plain one
            must keep to its own.
    """

    def __init__(
        self, name: str, seat: Seat, function: Reply, system_text: SystemText, *, timeout_s: float | None = None
    ) -> None:
        self.name = name
        self.seat = seat
        self.function = function
        self.system_text = system_text
        self._timeout_s = timeout_s or CALLABLE_TIMEOUT_S

    def describe(self) -> SpeakerCard:
        """Returns the speaker's card for records; its version is the function's name."""
        function = self.function
        name = getattr(function, "__qualname__", type(function).__qualname__)
        return SpeakerCard(name=self.name, kind="callable", version=f"{function.__module__}:{name}")

    async def reply(self, state: ConversationState, seed: int) -> Utterance:
        """Returns the function's reply.

        Raises:
            EngineError: the function raised, took too long or did not return text; this fails the conversation, not
                the run.
        """
        messages = chat_messages(state, self.seat, _instructed(self.system_text(state.context), self.seat))
        try:
            result = self.function(messages, seed)
            text = await asyncio.wait_for(result, self._timeout_s) if inspect.isawaitable(result) else result
        except Exception as error:
            raise EngineError(f"{self.name}: the callable raised {type(error).__name__}") from error
        if not isinstance(text, str):
            raise EngineError(f"{self.name}: the callable returned {type(text).__name__}, expected str")
        return _utterance(text, self.seat)


def import_callable(path: str) -> Callable[..., Any]:
    """Returns the object at ``package.module:name``.

    Raises:
        ConfigError: there is no such module or name, the module cannot be imported, or it is not callable.
    """
    module_name, _, name = path.partition(":")
    if not (module_name and name):
        raise ConfigError(f"no callable at {path!r}; expected package.module:name")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # a module may raise anything when it is imported
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        reason = f"there is no module {missing!r}" if missing else f"its import raises {type(error).__name__}"
        raise ConfigError(
            f"no callable at {path!r}: {reason}; expected package.module:name of a module that can be imported here "
            "(install it, or add its folder to PYTHONPATH)"
        ) from None
    if not hasattr(module, name):
        names = [known for known, value in vars(module).items() if callable(value) and not known.startswith("_")]
        raise ConfigError(f"no callable at {path!r}: the module has no {name!r}; {there_are(names, name)}")
    target = getattr(module, name)
    if not callable(target):
        raise ConfigError(f"{path!r} is {type(target).__name__}, expected something callable")
    return target
