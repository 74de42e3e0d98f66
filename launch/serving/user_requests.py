"""Requests to a served user in the form of OpenAI's chat completions, and the cache of the messages it has sampled.

Roles in requests are those of the conversation: ``assistant`` is the chatbot, ``user`` the simulated user. Independent
of HTTP.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from rlenv.core.errors import RlenvError
from rlenv.core.types import ConversationState, Role, SessionContext, Turn, Utterance
from rlenv.env.conversation import begin
from rlenv.env.scenarios import Scenarios

MAX_CHARACTERS = 100_000
SOURCES = ("context_id", "persona", "profile", "context")


class RequestError(RlenvError):
    """A request that cannot be answered, with the fields of OpenAI's error object."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.param, self.code, self.status = param, code, status


class ChatMessage(BaseModel):
    """One message of the conversation so far."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    role: Literal["system", "developer", "user", "assistant"]
    content: str = Field("", max_length=MAX_CHARACTERS)


class UserRequest(BaseModel):
    """A request for the simulated user's next message. Other fields are ignored, and the answer names them.

    Every request describes the user by one of ``context_id``, ``persona``, ``profile`` and ``context``; without any of
    them, a context is drawn under ``seed``.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    model: str
    """A served simulator version: base, it1, ..."""
    messages: tuple[ChatMessage, ...] = ()
    """The conversation so far; empty asks the user to open it. System messages are for the chatbot, and are skipped."""
    seed: int | None = None
    """The conversation's seed. If all its requests have the same, the conversation is that of the env under it."""
    n: int = Field(1, ge=1, le=64)
    """Number of alternative messages; the first is the one that ``n=1`` gives."""
    stream: bool = False
    context_id: str | None = None
    """A context of the run's data."""
    persona: str | None = None
    """A user of the run's data; one of their contexts is drawn under ``seed``."""
    profile: str | None = Field(None, max_length=MAX_CHARACTERS)
    """A description of the person."""
    context: SessionContext | None = None
    """A whole user context."""

    def ignored(self) -> list[str]:
        """Returns the names of the fields that have no effect, such as those of sampling, which the version fixes."""
        return sorted(self.model_extra or {})

    def who(self, scenarios: Scenarios) -> tuple[str, SessionContext]:
        """Returns the id of the user context and the context.

        Raises:
            RequestError: no user or several are described, or the context does not exist.
        """
        given = [name for name in SOURCES if getattr(self, name) is not None]
        if len(given) > 1:
            raise RequestError(f"{' and '.join(given)} were given; describe the user by one of them", param=given[1])
        if self.context is not None:
            return "own", self.context
        if self.profile is not None:
            return "own", SessionContext(profile=self.profile)
        if not given and self.seed is None:
            raise RequestError(f"no user is described; give one of {', '.join(SOURCES)}, or a seed to draw one")
        try:
            scenario = scenarios.choose(self.seed or 0, context_id=self.context_id, persona=self.persona)
        except RlenvError as error:
            raise RequestError(str(error), param=given[0], code="context_not_found") from None
        return scenario.context_id, scenario.context


class SampledMessages:
    """A cache of sampled messages with their tokens, by the conversation up to and including them.

    It is bounded: the least recently used messages are dropped, and their tokens are then made from their text.
    """

    def __init__(self, most: int = 50_000) -> None:
        self._most = most
        self._messages: OrderedDict[bytes, Utterance] = OrderedDict()

    def __len__(self) -> int:
        return len(self._messages)

    def get(self, key: bytes) -> Utterance | None:
        """Returns the message of a key; None if it is not cached."""
        message = self._messages.get(key)
        if message is not None:
            self._messages.move_to_end(key)
        return message

    def keep(self, key: bytes, message: Utterance) -> None:
        """Caches a message."""
        self._messages[key] = message
        self._messages.move_to_end(key)
        while len(self._messages) > self._most:
            self._messages.popitem(last=False)


def state_of(
    request: UserRequest, scenarios: Scenarios, known: SampledMessages, seed: int
) -> tuple[ConversationState, bytes]:
    """Returns the conversation in which the user speaks next, and its key in ``known``.

    Raises:
        RequestError: messages do not alternate, the next turn is not the user's, or the context is unknown.
    """
    context_id, context = request.who(scenarios)
    spoken = [m for m in request.messages if m.role in ("user", "assistant")]
    _check_order([m.role for m in spoken])
    opener: Role = "assistant" if spoken and spoken[0].role == "assistant" else "user"
    turns: list[Turn] = []
    memory: dict[str, Any] | None = None
    key = b""
    for message, key in zip(spoken, _keys(request.model, context, spoken), strict=True):
        utterance = known.get(key) if message.role == "user" else None
        utterance = utterance or Utterance(text=message.content)
        memory = utterance.memory or memory
        turns.append(Turn(role="user" if message.role == "user" else "assistant", utterance=utterance))
    state = begin(context_id, context, opener=opener, seed=seed)
    key = key or _start(request.model, context)
    return state.model_copy(update={"turns": tuple(turns), "user_memory": memory}), key


def next_key(key: bytes, role: str, text: str) -> bytes:
    """Returns the key of a conversation with one more message."""
    return hashlib.sha256(key + f"\x1e{role}\x1f{text}".encode("utf-8", "surrogatepass")).digest()


def _start(model: str, context: SessionContext) -> bytes:
    return next_key(b"", model, repr(context.model_dump(mode="python")))


def _keys(model: str, context: SessionContext, spoken: list[ChatMessage]) -> Iterator[bytes]:
    key = _start(model, context)
    for message in spoken:
        key = next_key(key, message.role, message.content)
        yield key


def _check_order(roles: list[str]) -> None:
    for i, (previous, role) in enumerate(pairwise(roles), 1):
        if previous == role:
            raise RequestError(
                f"messages[{i}] of the conversation is {role!r} after {previous!r}; user and assistant must alternate",
                param="messages",
            )
    if roles and roles[-1] != "assistant":
        raise RequestError(
            "the last message is the user's; it must be the chatbot's (role 'assistant'), which the user answers",
            param="messages",
        )
