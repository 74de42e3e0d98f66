"""Requests to a served user in the form of OpenAI's chat completions, and the cache of the messages it has sampled.

Roles in requests are those of the conversation: ``assistant`` is the chatbot, ``user`` the simulated user. Agents send
more than was said, such as calls of tools and their results; it is passed over. Independent of HTTP.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from rlenv.core.errors import RlenvError
from rlenv.core.types import ConversationState, Role, SessionContext, Turn, Utterance
from rlenv.env.conversation import begin
from rlenv.env.scenarios import Scenarios
from rlenv.prompting.cutting import encodable

MAX_CHARACTERS = 100_000
SOURCES = ("context_id", "persona", "profile", "context")


class RequestError(RlenvError):
    """A request that cannot be answered, with the fields of OpenAI's error object."""

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.param, self.code, self.status = param, code, status


def _text(content: Any) -> Any:
    """Returns the text of a message's content: of its parts of text, joined; None if no part is text."""
    if content is None or isinstance(content, str):
        return _whole(content)
    if not isinstance(content, list) or not all(isinstance(part, str | dict) for part in content):
        raise ValueError(f"expected text or a list of parts, got {type(content).__name__}")
    texts = [part if isinstance(part, str) else part.get("text", part.get("refusal")) for part in content]
    return _whole("".join(text for text in texts if isinstance(text, str))) or None


def _whole(text: Any) -> Any:
    """Returns a text without halves of emojis, which clients cut; other values as they are."""
    return encodable(text) if isinstance(text, str) else text


Text = Annotated[str, Field(max_length=MAX_CHARACTERS), BeforeValidator(_whole)]


class ChatMessage(BaseModel):
    """One message of the conversation so far."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: Annotated[str | None, Field(max_length=MAX_CHARACTERS), BeforeValidator(_text)] = ""
    """Text, or the text of a list of parts; None where a chatbot only called a tool, or sent only pictures."""
    refusal: Text | None = None
    """What a chatbot said that refused to answer."""
    tool_calls: Any = None

    @property
    def said(self) -> str | None:
        """What the message says to the other side; None if it is no part of the conversation."""
        if self.role not in ("user", "assistant"):
            return None
        text = self.content or self.refusal
        return text or (None if self.tool_calls else self.content)


class UserRequest(BaseModel):
    """A request for the simulated user's next message. Other fields are ignored, and the answer names them.

    Every request describes the user by one of ``context_id``, ``persona``, ``profile`` and ``context``; without any of
    them, a context is drawn under ``seed``.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    model: str
    """A served simulator version: base, it1, ..."""
    messages: tuple[ChatMessage, ...] = ()
    """The conversation so far; empty asks the user to open it. What was not said to the user is passed over: system
    messages, calls of tools and their results, pictures. Messages of one side in a row are joined with a line break."""
    seed: int | None = None
    """The conversation's seed. If all its requests have the same, the conversation is that of the env under it."""
    n: int = Field(1, ge=1, le=64)
    """Number of alternative messages; the first is the one that ``n=1`` gives."""
    stream: bool = False
    """Answer as a stream of events; the message is one event, as it is complete when it is known."""
    stream_options: dict[str, Any] | None = None
    """``include_usage`` adds an event with the numbers of tokens."""
    context_id: str | None = None
    """A context of the run's data."""
    persona: str | None = None
    """A user of the run's data; one of their contexts is drawn under ``seed``."""
    profile: Text | None = None
    """A description of the person."""
    context: SessionContext | None = None
    """A whole user context."""

    @model_validator(mode="before")
    @classmethod
    def _without_null(cls, given: Any) -> Any:
        """Leaves out what is null: clients send so what they do not set."""
        return {k: v for k, v in given.items() if v is not None} if isinstance(given, dict) else given

    def ignored(self) -> list[str]:
        """Returns the names of the fields that have no effect, such as those of sampling, which the version fixes."""
        return sorted(self.model_extra or {})

    def spoken(self) -> list[tuple[Role, str]]:
        """Returns what was said: the speaker's role and the text of each turn, with no role twice in a row."""
        turns: list[tuple[Role, list[str]]] = []
        for message in self.messages:
            if (said := message.said) is None:
                continue
            role: Role = "user" if message.role == "user" else "assistant"
            if not turns or turns[-1][0] != role:
                turns.append((role, []))
            turns[-1][1].append(said)
        return [(role, "\n".join(filter(None, texts))) for role, texts in turns]

    def num_passed_over(self) -> int:
        """Returns the number of messages that were not said to the user."""
        return sum(message.said is None for message in self.messages)

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
        RequestError: the next turn is not the user's, or the context is unknown.
    """
    context_id, context = request.who(scenarios)
    spoken = request.spoken()
    if spoken and spoken[-1][0] == "user":
        raise RequestError(
            "the last message is the user's; it must be the chatbot's (role 'assistant'), which the user answers",
            param="messages",
        )
    turns: list[Turn] = []
    memory: dict[str, Any] | None = None
    key = _start(request.model, context)
    for role, text in spoken:
        key = next_key(key, role, text)
        utterance = (known.get(key) if role == "user" else None) or Utterance(text=text)
        memory = utterance.memory or memory
        turns.append(Turn(role=role, utterance=utterance))
    state = begin(context_id, context, opener=turns[0].role if turns else "user", seed=seed)
    return state.model_copy(update={"turns": tuple(turns), "user_memory": memory}), key


def next_key(key: bytes, role: str, text: str) -> bytes:
    """Returns the key of a conversation with one more message."""
    return hashlib.sha256(key + f"\x1e{role}\x1f{text}".encode("utf-8", "surrogatepass")).digest()


def _start(model: str, context: SessionContext) -> bytes:
    return next_key(b"", model, repr(context.model_dump(mode="python")))
