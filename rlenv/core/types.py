"""The records that flow between the parts: frozen, printable, saved as JSON, built by hand in a test.

Conventions, said once here and used everywhere:

* A *turn* is one user message; turns count from 1 (the paper's "turn 1, 5, 10, 25").
* ``log_odds`` has shape ``[T + 1]``: index 0 is the prior (log-odds 0), index t the discriminator's
  log(p_t / (1 - p_t)) after user message t, and p is P(real).
* A session's messages alternate between ``user`` and ``assistant``; either may open.
* Token ids are what a model sampled or was trained on; text is what people, judges and the other seat read.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Role = Literal["user", "assistant"]
Seat = Literal["user", "chatbot"]
SEAT_OF_ROLE: dict[Role, Seat] = {"user": "user", "assistant": "chatbot"}
ROLE_OF_SEAT: dict[Seat, Role] = {"user": "user", "chatbot": "assistant"}

EndedBy = Literal["user", "chatbot", "limit"]


class Record(BaseModel):
    """Base of every record: immutable, and unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True)


class OpenRecord(BaseModel):
    """Base of the records that people write: immutable, and unknown fields are kept as they came."""

    model_config = ConfigDict(frozen=True, extra="allow")


# --------------------------------------------------------------------------------------- sessions


class Message(OpenRecord):
    """One message, with the labels of Appendices D (actions, user messages) and E (issues, chatbot messages)."""

    role: Role
    content: str
    actions: tuple[str, ...] | None = None
    issues: tuple[str, ...] | None = None
    generated: tuple[str, ...] = ()
    """Names of the fields that a judge wrote (``rlenv annotate``)."""


class SessionContext(OpenRecord):
    """What is known of the user and of this session (Section 3.2, Appendix A), before it is cut to a budget."""

    profile: str | None = None
    situation: str | None = None
    long_term_context: str | None = None
    previous_summaries: tuple[str, ...] = ()
    """Summaries of earlier sessions, oldest first."""
    current_summary: str | None = None
    recent_sessions: tuple[tuple[Message, ...], ...] = ()
    """Raw messages of earlier sessions, oldest first."""
    generated: tuple[str, ...] = ()
    """Names of the fields that a language model wrote (``rlenv summarize``)."""


class Session(OpenRecord):
    """One conversation, real or simulated: one JSON line of a sessions file."""

    session_id: str = Field(min_length=1)
    user_id: str = ""
    """The person; a record without one counts as a user of its own (filled with the session id)."""
    source: str = ""
    chatbot: str = "unknown"
    context: SessionContext = SessionContext()
    messages: tuple[Message, ...] = ()
    judges: dict[str, str] = {}
    """``actions`` and ``issues``: the judge whose labels the ``generated`` ones of the messages are."""

    def model_post_init(self, _context: Any) -> None:
        if not self.user_id:
            object.__setattr__(self, "user_id", self.session_id)

    def user_messages(self) -> list[str]:
        """Returns the texts of the user's messages, in order: index t - 1 is turn t."""
        return [m.content for m in self.messages if m.role == "user"]


# ------------------------------------------------------------------------------ models and sampling


class Adapter(Record):
    """One version of a LoRA adapter. A new version is a new folder and a new digest, never an overwritten one."""

    name: str
    """The version's name: ``base``, ``it1``, ``it2`` ..., or a chatbot's."""
    path: str
    digest: str
    """SHA-256 of the adapter's files, hexadecimal."""


class Sampling(Record):
    """How one reply is sampled."""

    temperature: float = Field(1.0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = 0
    """0 keeps all tokens."""
    max_tokens: int = Field(256, ge=1)
    seed: int | None = None
    stop_token_ids: tuple[int, ...] = ()
    json_schema: str | None = None
    """JSON schema, as JSON text, that the reply is held to; only an engine started with ``structured`` can."""


class Generation(Record):
    """What an engine returns for one request: sampled tokens (the stop token included) and their log-probs."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: Literal["stop", "length"]
    adapter: Adapter | None = None
    cached_tokens: int = 0
    """Prompt tokens that the engine found in its prefix cache."""


class Utterance(Record):
    """What one seat says at its turn.

    ``token_ids`` are the tokens as sampled, the end-of-turn or end-of-session token included; empty where the
    speaker is no language model. They are extended, trained on and scored as they are, never re-encoded.
    """

    text: str
    ends_session: bool = False
    """The speaker closed the session with this message (or, with an empty text, instead of one)."""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    adapter: Adapter | None = None
    truncated: bool = False
    """The token cap cut the reply."""
    actions: tuple[str, ...] | None = None
    issues: tuple[str, ...] | None = None
    memory: dict[str, Any] | None = None
    """The speaker's hidden state after this message (JSON-able), where it keeps one."""


class Turn(Record):
    """One message of a conversation in progress: who spoke, and the utterance."""

    role: Role
    utterance: Utterance


class End(Record):
    """Why and by whom a conversation ended."""

    by: EndedBy
    reason: Literal["end_of_session", "max_turns", "max_tokens", "max_seconds"]
    said: Utterance | None = None
    """What a speaker who left without a word sampled to do so: no turn of the conversation, but a decision of its."""

    @property
    def truncated(self) -> bool:
        """True where a cap, not a speaker, ended it."""
        return self.by == "limit"


class ConversationState(Record):
    """Everything that a conversation is: a snapshot. Small, JSON-able, and enough to continue it anywhere.

    ``user_memory`` and ``chatbot_memory`` are the two speakers' hidden states; a speaker's reply is a function
    of this record and a seed alone, so equal seeds continue it equally.
    """

    context_id: str
    context: SessionContext
    opener: Role
    seed: int
    turns: tuple[Turn, ...] = ()
    user_memory: dict[str, Any] | None = None
    chatbot_memory: dict[str, Any] | None = None
    end: End | None = None

    @property
    def num_user_turns(self) -> int:
        """User messages so far, empty ones included."""
        return sum(t.role == "user" for t in self.turns)

    def next_role(self) -> Role:
        """Returns whose message comes next."""
        if not self.turns:
            return self.opener
        return "assistant" if self.turns[-1].role == "user" else "user"


class Annotation(Record):
    """What a judge says of one conversation."""

    labels: tuple[tuple[str, ...], ...] = ()
    """One entry a message, in order: actions of a user's (Appendix D), issues of a chatbot's (Appendix E)."""
    score: float | None = None
    """The conversation as a whole, where the judge gives such a score."""


# ---------------------------------------------------------------------------------- adversarial parts


class Branch(Record):
    """Alternatives for user turn ``turn`` of a session: each is what the user might have said there instead."""

    turn: int = Field(ge=1)
    texts: tuple[str, ...]


class SessionScores(Record):
    """The discriminator's log-odds of one session [T + 1] and, per branch, of each alternative [n]."""

    session_id: str
    log_odds: tuple[float, ...]
    branches: tuple[tuple[float, ...], ...] = ()


class PreferencePair(Record):
    """One row of ``pairs.jsonl``: a critical turn, the best and the worst of its alternatives (Section 3.5).

    Of the user simulator, by Eq. 4, or of the chatbot, by the env's reward; ``turn`` counts the seat's own messages.
    ``prompt``, ``chosen`` and ``rejected`` are text with the special tokens written out, as TRL takes them;
    the ``*_ids`` are the same as sampled, which is what training uses.
    """

    prompt: str
    chosen: str
    rejected: str
    prompt_ids: tuple[int, ...]
    chosen_ids: tuple[int, ...]
    rejected_ids: tuple[int, ...]
    reward_chosen: float
    reward_rejected: float
    session_id: str
    turn: int
    critical: Literal["highest", "lowest", "first"]
    """The turn with the highest or the lowest reward of its session; ``first`` where whole conversations that share
    their beginning are compared."""
    simulator: str
    """Who said both: the version of whoever sits in ``seat``."""
    rewards: tuple[float, ...] = ()
    """Rewards of all the alternatives, in the order sampled."""
    seat: Seat = "user"
