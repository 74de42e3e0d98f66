"""Functions that advance a conversation by one message and decide when it ends, for both seats.

A conversation is a frozen ``ConversationState``; advancing it returns a new one. A snapshot is therefore the state
itself, and a fork is two continuations of one state. Independent of engines, rewards and Gymnasium.

    state = begin(context_id, context, opener="user", seed=7)
    while state.end is None:
        speaker = user if state.next_role() == "user" else chatbot
        state = apply(state, await speaker.reply(state, reply_seed(state)), limits)
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from rlenv.core.protocols import Speaker
from rlenv.core.seeds import derive_seed
from rlenv.core.settings import Settings, settings
from rlenv.core.types import (
    ROLE_OF_SEAT,
    SEAT_OF_ROLE,
    ConversationState,
    End,
    Message,
    Role,
    Seat,
    Session,
    SessionContext,
    Turn,
    Utterance,
)


@settings
class Limits(Settings):
    """Caps on a conversation. A conversation that a cap ends is *truncated*, not *terminated*."""

    max_turns: int = Field(default=25, ge=1)
    """Maximum number of user messages; the chatbot does not reply to the last one."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Maximum number of sampled tokens, both seats together; None means no cap."""
    max_seconds: float | None = Field(default=None, gt=0)
    """Maximum wall-clock time in seconds since the conversation began; None means no cap. Only
    ``ConversationCore`` enforces it: a state has no clock."""


def begin(context_id: str, context: SessionContext, *, opener: Role = "user", seed: int = 0) -> ConversationState:
    """Returns a conversation without messages."""
    return ConversationState(context_id=context_id, context=context, opener=opener, seed=seed)


def reply_seed(state: ConversationState, *salt: int | str) -> int:
    """Returns the seed of the next message, a function of the conversation's seed, its position and ``salt``."""
    return derive_seed(state.seed, state.next_role(), len(state.turns), *salt)


def apply(state: ConversationState, utterance: Utterance, limits: Limits) -> ConversationState:
    """Returns the conversation with ``utterance`` added as the next message.

    An utterance with ``ends_session`` and no text ends the conversation without adding a turn; its sampled tokens are
    kept in ``End.said``.
    """
    role = state.next_role()
    turns = state.turns
    if utterance.text or not utterance.ends_session:
        turns = (*turns, Turn(role=role, utterance=utterance))
    update: dict[str, object] = {"turns": turns, "end": _end(turns, role, utterance, limits)}
    if utterance.memory is not None:
        update["user_memory" if role == "user" else "chatbot_memory"] = utterance.memory
    return state.model_copy(update=update)


def _end(turns: Sequence[Turn], role: Role, utterance: Utterance, limits: Limits) -> End | None:
    if utterance.ends_session:
        # The memory is dropped because the state already has it.
        silent = None if utterance.text else utterance.model_copy(update={"memory": None})
        return End(by=SEAT_OF_ROLE[role], reason="end_of_session", said=silent)
    if role == "user" and len([t for t in turns if t.role == "user"]) >= limits.max_turns:
        return End(by="limit", reason="max_turns")
    if limits.max_tokens is not None and sum(len(t.utterance.token_ids) for t in turns) >= limits.max_tokens:
        return End(by="limit", reason="max_tokens")
    return None


async def converse(
    state: ConversationState, user: Speaker, chatbot: Speaker, limits: Limits = Limits()
) -> ConversationState:
    """Returns ``state`` continued by the two speakers until it ends."""
    while state.end is None:
        speaker = user if state.next_role() == "user" else chatbot
        state = apply(state, await speaker.reply(state, reply_seed(state)), limits)
    return state


def before_user_turn(state: ConversationState, turn: int) -> ConversationState:
    """Returns the state just before user message ``turn`` (counted from 1); see ``before_message``."""
    return before_message(state, "user", turn)


def before_message(state: ConversationState, seat: Seat, number: int) -> ConversationState:
    """Returns the state just before message ``number`` (counted from 1) of ``seat``: the point to fork from.

    The speakers' memories are restored to that point, if the speakers store them in their utterances.

    Raises:
        IndexError: ``number`` is below 1, or ``seat`` has fewer messages.
    """
    indices = [i for i, t in enumerate(state.turns) if t.role == ROLE_OF_SEAT[seat]]
    if not 1 <= number <= len(indices):
        raise IndexError(
            f"conversation {state.context_id}: no {seat} message {number}; it has {len(indices)}, counted from 1"
        )
    turns = state.turns[: indices[number - 1]]
    return state.model_copy(
        update={
            "turns": turns,
            "end": None,
            "user_memory": _last_memory(turns, "user"),
            "chatbot_memory": _last_memory(turns, "assistant"),
        }
    )


def _last_memory(turns: Sequence[Turn], role: Role) -> dict[str, object] | None:
    for turn in reversed(turns):
        if turn.role == role and turn.utterance.memory is not None:
            return turn.utterance.memory
    return None


def to_session(state: ConversationState, *, session_id: str, source: str, chatbot: str, user_id: str = "") -> Session:
    """Returns the conversation as a session record, the form in which real sessions are stored."""
    messages = tuple(
        Message(
            role=t.role,
            content=t.utterance.text,
            actions=t.utterance.actions,
            issues=t.utterance.issues,
        )
        for t in state.turns
    )
    return Session(
        session_id=session_id,
        user_id=user_id or session_id,
        source=source,
        chatbot=chatbot,
        context=state.context,
        messages=messages,
    )


def from_session(session: Session, *, seed: int = 0) -> ConversationState:
    """Returns a session as a conversation to fork from or to read; its messages have texts alone, no tokens."""
    turns = tuple(Turn(role=m.role, utterance=Utterance(text=m.content)) for m in session.messages)
    opener = turns[0].role if turns else "user"
    return begin(session.session_id, session.context, opener=opener, seed=seed).model_copy(update={"turns": turns})
