"""The discriminator's token layout: which ids it reads and at which positions it speaks (Section 3.4, Eq. 2).

Training and serving both read this file, hence the very same positions. A session is laid out from its text, real and
simulated alike: user messages as the template's user, the chatbot's as its assistant, the context (if any) as the
system message. Messages are trimmed by ``spoken`` and nothing marks the end of a session, so that formatting says
nothing of where a session came from. The log-odds of turn t stand at the end-of-turn token of user message t.

Knows nothing of models; needs only ``ChatFormat``.
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
"""What the log-odds of a turn are. ``last``: the head at its end-of-turn token alone, as in the paper. ``sum``: the
head at every token up to there, added up: the form that the log-odds of two language models have, since both write
token by token. A small backbone learns far more from it: each token hears of the label (400 sessions of the population,
three epochs: 0.82 over all turns against 0.72, word counts 0.85 on whole sessions)."""


@settings
class DiscriminatorLayout(Settings):
    """What the discriminator sees of a session. Saved in its checkpoint, so that serving cannot differ."""

    view: View = "full"
    """``full`` reads both seats; ``user_only`` leaves the chatbot's messages out entirely."""
    use_context: bool = True
    """Read the user context as the system message (the c of Eq. 2)."""
    blank_user: bool = False
    """Control: user messages become empty while their end-of-turn positions stay. What such a discriminator learns
    comes from the chatbot's side and from turn counts: a leak."""
    max_tokens: int = Field(default=8192, ge=1)
    """A longer session is cut after the last whole turn that fits; turns after the cut get no log-odds."""

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as JSON-able values."""
        return to_dict(self)


@dataclass(frozen=True)
class DiscriminatorRow:
    """One session (or a session with one alternative) as the discriminator reads it."""

    session_id: str
    token_ids: tuple[int, ...]
    positions: tuple[int, ...]
    """[T'] where the log-odds of turns 1..T' stand; T' is below ``num_turns`` where the session was cut."""
    num_turns: int
    """User messages before the cut."""


@dataclass(frozen=True)
class DiscriminatorTree:
    """A session and its branches: the unit of scoring, so that a scorer may read the shared past once."""

    trunk: DiscriminatorRow
    branches: tuple[tuple[DiscriminatorRow, ...], ...] = ()
    """Per branch, per alternative: the past up to the turn, and the alternative. Its last position is to be scored."""
    num_shared: tuple[int, ...] = ()
    """Per branch: how many leading ids its alternatives share with the trunk."""


def discriminator_row(
    chat: ChatFormat,
    layout: DiscriminatorLayout,
    messages: Sequence[Message],
    system: str | None = None,
    session_id: str = "",
) -> DiscriminatorRow:
    """Returns the ids and positions of one session, cut after the last whole turn that fits ``layout.max_tokens``.

    Args:
        chat: the template's pieces.
        layout: what is read.
        messages: both seats', in order.
        system: the context's text; read only with ``layout.use_context``.
        session_id: goes into errors.
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
    # What follows the last position is never read by any log-odds.
    return DiscriminatorRow(session_id, tuple(ids[:kept]), tuple(positions), num_turns)


def discriminator_rows(
    chat: ChatFormat,
    layout: DiscriminatorLayout,
    sessions: Sequence[Session],
    systems: Sequence[str | None] | None = None,
) -> list[DiscriminatorRow]:
    """Returns one row a session, in order; ``systems`` are the contexts' texts, None for none."""
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
    """Returns a session with its branches, every turn of which has a position.

    Raises:
        OverlongError: the session, or an alternative, does not fit ``layout.max_tokens``.
        IndexError: a branch names a turn that the session does not have.
    """
    trunk = discriminator_row(chat, layout, session.messages, system, session.session_id)
    require_whole(trunk, layout.max_tokens)
    indices = [i for i, m in enumerate(session.messages) if m.role == "user"]
    rows, shared = [], []
    for branch in branches:
        if branch.turn > len(indices):
            raise IndexError(f"session {session.session_id}: branch at turn {branch.turn} of {len(indices)}")
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
    """Raises OverlongError where turns of the row were cut: fewer than T log-odds are never returned in silence."""
    if len(row.positions) < row.num_turns:
        raise OverlongError(
            f"session {row.session_id}: only {len(row.positions)} of {row.num_turns} user turns fit the "
            f"discriminator's {max_tokens} tokens; raise discriminator.max_tokens, shorten the context, "
            "or lower env.max_turns"
        )


def _common(one: Sequence[int], other: Sequence[int]) -> int:
    count = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        count += 1
    return count
