"""The conversation core: how a conversation advances by one message, and why it ends. Both seats, one code path.

A conversation is a frozen ``ConversationState``; advancing it gives a new one, so a snapshot is the state itself
and a fork is two continuations of it. Knows nothing of engines, rewards or Gymnasium.

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
    """When a conversation is cut short. A conversation that a cap ended is *truncated*, never *terminated*."""

    max_turns: int = Field(25, ge=1)
    """User messages; the chatbot's reply to the last one is not asked for."""
    max_tokens: int | None = Field(None, ge=1)
    """Sampled tokens of both seats together; None is no cap."""
    max_seconds: float | None = Field(None, gt=0)
    """Wall-clock seconds since the conversation began, seen by whoever drives it; None is no cap."""


def begin(context_id: str, context: SessionContext, *, opener: Role = "user", seed: int = 0) -> ConversationState:
    """Returns a conversation in which nothing was said yet."""
    return ConversationState(context_id=context_id, context=context, opener=opener, seed=seed)


def reply_seed(state: ConversationState, *salt: int | str) -> int:
    """Returns the seed of the next message: a function of the conversation's seed, its position and ``salt``."""
    return derive_seed(state.seed, state.next_role(), len(state.turns), *salt)


def apply(state: ConversationState, utterance: Utterance, limits: Limits) -> ConversationState:
    """Returns the conversation after the next speaker said ``utterance``.

    A user who leaves without a word (``ends_session`` and no text) ends the conversation and adds no turn; what
    was sampled to do so is in ``End.said``.
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
        said = None if utterance.text else utterance.model_copy(update={"memory": None})  # the state holds the memory
        return End(by=SEAT_OF_ROLE[role], reason="end_of_session", said=said)
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
    """Returns the snapshot in which user message ``turn`` (from 1) comes next; see ``before_message``."""
    return before_message(state, "user", turn)


def before_message(state: ConversationState, seat: Seat, number: int) -> ConversationState:
    """Returns the snapshot in which message ``number`` (from 1) of ``seat`` comes next: the point to fork from.

    The speakers' memories are those that stood there, as far as the speakers keep them in their utterances.

    Raises:
        IndexError: ``seat`` has fewer messages.
    """
    indices = [i for i, t in enumerate(state.turns) if t.role == ROLE_OF_SEAT[seat]]
    if not 1 <= number <= len(indices):
        raise IndexError(f"turn {number} of conversation {state.context_id}, which has {len(indices)} {seat} turns")
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
    """Returns the conversation as a session record, the way real ones are stored."""
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
