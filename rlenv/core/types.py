"""Defines the records that pass between the parts: frozen, printable, saved as JSON, easy to build in a test.

Conventions:

* A *turn* is one user message; turns count from 1 (the paper's "turn 1, 5, 10, 25").
* ``log_odds`` has shape ``[T + 1]``: index 0 is the prior (log-odds 0), index t the discriminator's
  log(p_t / (1 - p_t)) after user message t, and p is P(real).
* The messages of a session alternate between ``user`` and ``assistant``; either may open.
* Token ids are what a model sampled or is trained on; text is what people, judges and the other seat read.
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
    """Base of the records: immutable; unknown fields are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True)


class OpenRecord(BaseModel):
    """Base of the records that come from users' files: immutable; unknown fields are kept."""

    model_config = ConfigDict(frozen=True, extra="allow")


# --------------------------------------------------------------------------------------- sessions


class Message(OpenRecord):
    """One message, with the labels of Appendices D (actions, user messages) and E (issues, chatbot messages)."""

    role: Role
    content: str
    actions: tuple[str, ...] | None = None
    issues: tuple[str, ...] | None = None
    generated: tuple[str, ...] = ()
    """Names of the fields written by a judge (``rlenv annotate``)."""


class SessionContext(OpenRecord):
    """The user context of a session (Section 3.2, Appendix A), before it is cut to a budget of tokens."""

    profile: str | None = None
    situation: str | None = None
    long_term_context: str | None = None
    previous_summaries: tuple[str, ...] = ()
    """Summaries of earlier sessions, oldest first."""
    current_summary: str | None = None
    recent_sessions: tuple[tuple[Message, ...], ...] = ()
    """Raw messages of earlier sessions, oldest first."""
    generated: tuple[str, ...] = ()
    """Names of the fields written by a language model (``rlenv summarize``)."""


class Session(OpenRecord):
    """One conversation, real or simulated: one JSON line of a sessions file."""

    session_id: str = Field(min_length=1)
    user_id: str = ""
    """The user; defaults to the session id, so a session without one counts as a separate user."""
    source: str = ""
    chatbot: str = "unknown"
    context: SessionContext = SessionContext()
    messages: tuple[Message, ...] = ()
    judges: dict[str, str] = {}
    """``actions`` or ``issues`` to the name of the judge that wrote the messages' ``generated`` labels."""

    def model_post_init(self, _context: Any) -> None:
        if not self.user_id:
            object.__setattr__(self, "user_id", self.session_id)

    def user_messages(self) -> list[str]:
        """Returns the texts of the user's messages in order; index t - 1 is turn t."""
        return [m.content for m in self.messages if m.role == "user"]


def simulation_id(context_id: str, number: int) -> str:
    """Returns the id of simulation ``number`` (0, 1, ...) of the context of the real session ``context_id``."""
    return f"{context_id}#{number}"


def context_of(session_id: str) -> str:
    """Returns the id of the real session whose context a simulated session has; that of a real one is its own.

    >>> context_of(simulation_id("u7-0", 1)), context_of("u7-0")
    ('u7-0', 'u7-0')
    """
    head, mark, number = session_id.rpartition("#")
    return head if mark and number.isdigit() else session_id


# ------------------------------------------------------------------------------ models and sampling


class Adapter(Record):
    """One version of a LoRA adapter. A new version is a new folder with a new digest, never an overwritten one."""

    name: str
    """The version's name: ``base``, ``it1``, ``it2``, ... for a simulator, or a chatbot's version."""
    path: str
    digest: str
    """SHA-256 of the adapter's files, hexadecimal."""


class Sampling(Record):
    """How a reply is sampled. ``seed``, ``stop_token_ids`` and ``json_schema`` are set per request, not in settings."""

    temperature: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    """0 means greedy decoding."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Nucleus sampling; 1 keeps all tokens."""
    top_k: int = Field(default=0, ge=0)
    """0 keeps all tokens."""
    max_tokens: int = Field(default=256, ge=1)
    """Maximum number of sampled tokens of a reply."""
    seed: int | None = None
    stop_token_ids: tuple[int, ...] = ()
    json_schema: str | None = None
    """JSON schema, as JSON text, that the reply must satisfy; needs an engine started with ``structured``."""


class Generation(Record):
    """An engine's result for one request: the sampled tokens, including the stop token, and their log-probs."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: Literal["stop", "length"]
    adapter: Adapter | None = None
    cached_tokens: int = 0
    """Number of prompt tokens found in the engine's prefix cache."""


class Utterance(Record):
    """One message as its speaker produced it.

    ``token_ids`` are the sampled tokens, including the end-of-turn or end-of-session token; empty if the speaker is not
    a language model. They are extended, trained on and scored as they are, never re-encoded from the text.
    """

    text: str
    ends_session: bool = False
    """The speaker ended the session with this message or, if the text is empty, without a message."""
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    adapter: Adapter | None = None
    truncated: bool = False
    """The token cap cut the reply."""
    actions: tuple[str, ...] | None = None
    issues: tuple[str, ...] | None = None
    memory: dict[str, Any] | None = None
    """The speaker's hidden state after this message (JSON-able), if it has one."""


class Turn(Record):
    """One message of a conversation in progress: its role and utterance."""

    role: Role
    utterance: Utterance


class End(Record):
    """How a conversation ended: by whom and why."""

    by: EndedBy
    reason: Literal["end_of_session", "max_turns", "max_tokens", "max_seconds"]
    said: Utterance | None = None
    """The empty utterance of a speaker that left without a message: not a turn, but its tokens are an action."""

    @property
    def truncated(self) -> bool:
        """True if a cap ended the conversation, False if a speaker did."""
        return self.by == "limit"


class ConversationState(Record):
    """The full state of a conversation: small, JSON-able, and enough to continue it anywhere.

    ``user_memory`` and ``chatbot_memory`` are the speakers' hidden states. A speaker's reply is a function of this
    record and a seed alone, so equal seeds give equal continuations.
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
        """Number of user messages so far, including empty ones."""
        return sum(t.role == "user" for t in self.turns)

    def next_role(self) -> Role:
        """Returns the role of the next message."""
        if not self.turns:
            return self.opener
        return "assistant" if self.turns[-1].role == "user" else "user"


class Annotation(Record):
    """A judge's annotation of one conversation."""

    labels: tuple[tuple[str, ...], ...] = ()
    """One entry per message, in order: actions of a user message (Appendix D), issues of a chatbot message (E)."""
    score: float | None = None
    """Score of the whole conversation, if the judge gives one."""
    num_unknown: int = 0
    """Categories that the judge named and the taxonomy does not have; they are not among the labels."""


# ---------------------------------------------------------------------------------- adversarial parts


class Branch(Record):
    """Alternative messages for user turn ``turn`` of a session."""

    turn: int = Field(ge=1)
    texts: tuple[str, ...]


class SessionScores(Record):
    """The discriminator's log-odds of one session, [T + 1], and for each branch those of its alternatives, [n]."""

    session_id: str
    log_odds: tuple[float, ...]
    branches: tuple[tuple[float, ...], ...] = ()


Critical = Literal["highest", "lowest", "drawn"]
"""Why alternatives are compared at a turn: it has the highest or the lowest reward of its session, or was drawn."""


class Alternatives(Record):
    """All alternatives at one turn of a session with their rewards: one row of ``alternatives.jsonl``."""

    session_id: str
    turn: int
    critical: Critical
    simulator: str
    """The version that sampled them."""
    prompt_ids: tuple[int, ...]
    replies_ids: tuple[tuple[int, ...], ...]
    """[n] the sampled tokens of each, end token included."""
    rewards: tuple[float, ...]
    """[n] Eq. 4 at this turn."""


class PreferencePair(Record):
    """One row of ``pairs.jsonl``: the best and the worst alternative at a critical turn (Section 3.5).

    Messages of the user simulator are ranked by Eq. 4, those of a chatbot by the env's reward; ``turn`` counts the
    messages of ``seat``. ``prompt``, ``chosen`` and ``rejected`` are text with special tokens, in TRL's format; the
    ``*_ids`` are the same as sampled tokens, and are what training uses.
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
    critical: Critical | Literal["first"]
    """Why alternatives are compared at this turn; ``first`` if whole conversations with the same beginning are."""
    simulator: str
    """The version of the speaker in ``seat``, which wrote both messages."""
    rewards: tuple[float, ...] = ()
    """Rewards of all alternatives, in the order in which they were sampled."""
    seat: Seat = "user"
