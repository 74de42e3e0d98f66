"""The discriminator's token layout: its input ids and the positions of its log-odds (Section 3.4, Eq. 2).

Training and serving both use this module, so they read the same positions. Real and simulated sessions are both laid
out from their text: user messages as the chat template's user, the chatbot's as its assistant, the context (if any) as
the system message. Messages are trimmed by ``spoken`` and nothing marks the end of a session, so that formatting does
not give a session's origin away. The log-odds of turn t are at the end-of-turn token of user message t.

Independent of models; needs only ``ChatFormat``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field

from rlenv.core.errors import OverlongError
from rlenv.core.settings import Settings, settings, to_dict
from rlenv.core.types import Branch, Message, Session
from rlenv.prompting.chat_format import ChatFormat

View = Literal["full", "user_only"]
Evidence = Literal["last", "sum"]
"""How the log-odds of a turn are computed. ``last``: the head's output at its end-of-turn token, as in the paper.
``sum``: the sum of the head's outputs at all tokens up to there. The log-odds of two language models have this form
too, since both generate token by token. A small backbone learns far more with it, because every token receives a
gradient from the label. (400 sessions of the population, three epochs: accuracy over all turns 0.82 against 0.72 with
``last``; a word-count classifier on whole sessions has 0.85.)"""


@settings
class DiscriminatorLayout(Settings):
    """What the discriminator reads of a session. Saved in its checkpoint, so that serving cannot differ."""

    view: View = "full"
    """``full`` reads both seats; ``user_only`` leaves the chatbot's messages out."""
    use_context: bool = True
    """Read the user context as the system message (the c of Eq. 2)."""
    blank_user: bool = False
    """Leak control: user messages are blanked, but their end-of-turn positions stay. What such a discriminator learns
    comes from the chatbot's messages and from the number of turns: a leak."""
    max_tokens: int = Field(default=8192, ge=1)
    """A longer session is cut after the last whole turn that fits; later turns have no log-odds."""

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as values that JSON can store."""
        return to_dict(self)


@dataclass(frozen=True)
class DiscriminatorRow:
    """One session (or a session with one alternative) as the discriminator reads it."""

    session_id: str
    token_ids: tuple[int, ...]
    positions: tuple[int, ...]
    """[T'] positions of the log-odds of turns 1..T'; T' is below ``num_turns`` if the session was cut."""
    num_turns: int
    """User messages before the cut."""


@dataclass(frozen=True)
class DiscriminatorTree:
    """A session and its branches, scored together so that the tokens they share are processed once."""

    trunk: DiscriminatorRow
    branches: tuple[tuple[DiscriminatorRow, ...], ...] = ()
    """For each branch and alternative: the messages before the turn and the alternative. Its last position is
    scored."""
    num_shared: tuple[int, ...] = ()
    """For each branch: the number of leading ids that its alternatives share with the trunk."""


def discriminator_row(
    chat: ChatFormat,
    layout: DiscriminatorLayout,
    messages: Sequence[Message],
    system: str | None = None,
    session_id: str = "",
) -> DiscriminatorRow:
    """Returns the ids and positions of one session, cut after the last whole turn that fits ``layout.max_tokens``.

    Args:
        chat: the chat template.
        layout: what is read.
        messages: the messages of both seats, in order.
        system: the context as text; read only with ``layout.use_context``.
        session_id: the id named in errors.
    """
    ids: list[int] = list(chat.system_ids(system)) if layout.use_context and system else list(chat.begin)
    positions: list[int] = []
    kept = 0
    num_turns = sum(m.role == "user" for m in messages)
    for message in messages:
        if message.role == "user":
            piece, text = chat.other, "" if layout.blank_user else message.content
        elif layout.view == "user_only":
            continue
        else:
            piece, text = chat.own, message.content
        ids.extend(piece.before)
        ids.extend(chat.encode(text) if text else ())
        ids.extend(piece.after)
        if message.role == "user":
            position = len(ids) - len(piece.after)
            if position >= layout.max_tokens:
                break
            positions.append(position)
            kept = position + 1
    # No log-odds depends on what follows the last position.
    return DiscriminatorRow(session_id, tuple(ids[:kept]), tuple(positions), num_turns)


def discriminator_rows(
    chat: ChatFormat,
    layout: DiscriminatorLayout,
    sessions: Sequence[Session],
    systems: Sequence[str | None] | None = None,
) -> list[DiscriminatorRow]:
    """Returns one row per session, in order; ``systems`` are the contexts as texts, None if there are none."""
    texts = [None] * len(sessions) if systems is None else systems
    return [
        discriminator_row(chat, layout, s.messages, text, s.session_id) for s, text in zip(sessions, texts, strict=True)
    ]


def discriminator_tree(
    chat: ChatFormat,
    layout: DiscriminatorLayout,
    session: Session,
    branches: Sequence[Branch] = (),
    system: str | None = None,
) -> DiscriminatorTree:
    """Returns the layout of a session with its branches, in which every turn has a position.

    Raises:
        OverlongError: the session or an alternative exceeds ``layout.max_tokens``.
        IndexError: a branch is at a turn that the session does not have.
    """
    trunk = discriminator_row(chat, layout, session.messages, system, session.session_id)
    require_whole(trunk, layout.max_tokens)
    indices = [i for i, m in enumerate(session.messages) if m.role == "user"]
    rows, shared = [], []
    for branch in branches:
        if branch.turn > len(indices):
            raise IndexError(
                f"session {session.session_id}: a branch is at turn {branch.turn}, but there are {len(indices)} turns"
            )
        past = session.messages[: indices[branch.turn - 1]]
        alternatives = tuple(
            discriminator_row(
                chat, layout, (*past, Message(role="user", content=text)), system, f"{session.session_id}@{branch.turn}"
            )
            for text in branch.texts
        )
        for row in alternatives:
            require_whole(row, layout.max_tokens)
        rows.append(alternatives)
        shared.append(min((_common(trunk.token_ids, row.token_ids) for row in alternatives), default=0))
    return DiscriminatorTree(trunk, tuple(rows), tuple(shared))


def require_whole(row: DiscriminatorRow, max_tokens: int) -> None:
    """Raises OverlongError if turns of the row were cut, so that fewer than T log-odds are never returned silently."""
    if len(row.positions) < row.num_turns:
        raise cut_error(row.session_id, len(row.positions), row.num_turns, max_tokens)


def cut_error(session_id: str, num_read: int, num_turns: int, max_tokens: int) -> OverlongError:
    """Returns the error of a session of which only ``num_read`` turns fit a discriminator."""
    return OverlongError(
        f"session {session_id}: only {num_read} of {num_turns} user turns fit the discriminator's {max_tokens} "
        "tokens; raise discriminator.max_tokens, shorten the context, or lower env.max_turns"
    )


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count
