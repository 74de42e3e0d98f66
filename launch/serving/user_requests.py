"""What a served user is asked and answers, in OpenAI's chat-completions form, and what is remembered between requests.

The API's roles are the conversation's: ``assistant`` is the chatbot's message, ``user`` an earlier one of the simulated
user. Knows nothing of HTTP.
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
    """A request that cannot be answered, in the terms of OpenAI's error object."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.param, self.code, self.status = param, code, status


class ChatMessage(BaseModel):
    """One message of the conversation so far."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    role: Literal["system", "developer", "user", "assistant"]
    content: str = Field("", max_length=MAX_CHARACTERS)


class UserRequest(BaseModel):
    """A request for the simulated user's next message. Fields beyond these are named in the answer as ignored.

    Who the user is comes with every request, by one of ``context_id`` and the three after it; with none of them, a
    context is drawn under ``seed``.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    model: str
    """A simulator version that is served: base, it1, ..."""
    messages: tuple[ChatMessage, ...] = ()
    """The conversation so far; empty asks the user to open it. System messages are the chatbot's; users read none."""
    seed: int | None = None
    """The conversation's: equal in all of its requests, they give the conversation that the env gives under it."""
    n: int = Field(1, ge=1, le=64)
    """Ways to go on; the first is the one that ``n=1`` gives."""
    stream: bool = False
    context_id: str | None = None
    """A context of the run's data."""
    persona: str | None = None
    """A user of the run's data; one of their contexts is drawn under ``seed``."""
    profile: str | None = Field(None, max_length=MAX_CHARACTERS)
    """A person in words."""
    context: SessionContext | None = None
    """A whole context of one's own."""

    def ignored(self) -> list[str]:
        """Returns the names of what was sent and has no effect: the simulator's sampling is a part of its version."""
        return sorted(self.model_extra or {})

    def who(self, scenarios: Scenarios) -> tuple[str, SessionContext]:
        """Returns the context's id and the context.

        Raises:
            RequestError: none or several were asked for, or one that is not there.
        """
        asked = [name for name in SOURCES if getattr(self, name) is not None]
        if len(asked) > 1:
            raise RequestError(f"{' and '.join(asked)} were given; a user is described by one of them", param=asked[1])
        if self.context is not None:
            return "own", self.context
        if self.profile is not None:
            return "own", SessionContext(profile=self.profile)
        if not asked and self.seed is None:
            raise RequestError(f"who is the user? Give one of {', '.join(SOURCES)}, or a seed to draw one under")
        try:
            found = scenarios.choose(self.seed or 0, context_id=self.context_id, persona=self.persona)
        except RlenvError as error:
            raise RequestError(str(error), param=asked[0], code="context_not_found") from None
        return found.context_id, found.context


class SampledMessages:
    """The messages that were sampled here, by the conversation up to and with them: tokens in, tokens out.

    Bounded: the messages that were not read for the longest time are forgotten, and then taken from their text.
    """

    def __init__(self, most: int = 50_000) -> None:
        self._most = most
        self._said: OrderedDict[bytes, Utterance] = OrderedDict()

    def __len__(self) -> int:
        return len(self._said)

    def get(self, key: bytes) -> Utterance | None:
        """Returns what was sampled there, where it is known."""
        found = self._said.get(key)
        if found is not None:
            self._said.move_to_end(key)
        return found

    def keep(self, key: bytes, said: Utterance) -> None:
        """Remembers a message."""
        self._said[key] = said
        self._said.move_to_end(key)
        while len(self._said) > self._most:
            self._said.popitem(last=False)


def state_of(
    request: UserRequest, scenarios: Scenarios, known: SampledMessages, seed: int
) -> tuple[ConversationState, bytes]:
    """Returns the conversation in which the user speaks next, and its key in ``known``.

    Raises:
        RequestError: messages that do not alternate or do not leave the word to the user, or an unknown context.
    """
    context_id, context = request.who(scenarios)
    spoken = [m for m in request.messages if m.role in ("user", "assistant")]
    _check_order([m.role for m in spoken])
    opener: Role = "assistant" if spoken and spoken[0].role == "assistant" else "user"
    turns: list[Turn] = []
    memory: dict[str, Any] | None = None
    key = b""
    for message, key in zip(spoken, _keys(request.model, context, spoken), strict=True):
        said = known.get(key) if message.role == "user" else None
        said = said or Utterance(text=message.content)
        memory = said.memory or memory
        turns.append(Turn(role="user" if message.role == "user" else "assistant", utterance=said))
    state = begin(context_id, context, opener=opener, seed=seed)
    key = key or _start(request.model, context)
    return state.model_copy(update={"turns": tuple(turns), "user_memory": memory}), key


def next_key(key: bytes, role: str, text: str) -> bytes:
    """Returns the key of a conversation with one message more."""
    return hashlib.sha256(key + f"\x1e{role}\x1f{text}".encode("utf-8", "surrogatepass")).digest()


def _start(model: str, context: SessionContext) -> bytes:
    return next_key(b"", model, repr(context.model_dump(mode="python")))


def _keys(model: str, context: SessionContext, spoken: list[ChatMessage]) -> Iterator[bytes]:
    key = _start(model, context)
    for message in spoken:
        key = next_key(key, message.role, message.content)
        yield key


def _check_order(roles: list[str]) -> None:
    for place, (one, two) in enumerate(pairwise(roles), 1):
        if one == two:
            raise RequestError(
                f"messages[{place}] of the conversation is {two!r} after {one!r}; user and assistant must alternate",
                param="messages",
            )
    if roles and roles[-1] != "assistant":
        raise RequestError(
            "the last message is the user's; the simulated user speaks after the chatbot (role 'assistant')",
            param="messages",
        )
