"""Puts the messages of a chat into the order of their own turn numbers or times: exports may be newest first."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

TURNS = (
    *("turn", "turn_id", "turn_index", "turn_idx", "turn_number", "turn_no", "message_index", "message_idx"),
    *("message_number", "utterance_index", "utterance_idx", "utterance_number", "position", "order", "sequence"),
    *("seq", "index", "idx"),
)
"""Names of a message's number in its chat, in any case."""
TIMES = ("timestamp", "created_at", "create_time", "createdat", "created", "sent_at", "datetime", "date", "time")
"""Names of the time when a message was sent, in any case."""


def in_order(messages: Sequence[Any], roles: Sequence[str]) -> tuple[list[Any], str | None]:
    """Returns the messages in the order of the first field that all of them have, and its name if any has moved.

    Messages with equal numbers or times keep their order. Numbers of which one speaker has the same twice are no order,
    since they count something else or begin again within the chat.

    Args:
        messages: objects; other values are left where they are.
        roles: names of the field with the speaker.

    >>> in_order([{"turn": 2, "role": "bot"}, {"turn": "1", "role": "user"}], ["role"])
    ([{'turn': '1', 'role': 'user'}, {'turn': 2, 'role': 'bot'}], 'turn')
    """
    if len(messages) < 2 or not all(isinstance(message, Mapping) for message in messages):
        return list(messages), None
    fields = [{str(name).lower(): value for name, value in message.items()} for message in messages]
    for name in (*TURNS, *TIMES):
        if name not in fields[0]:
            continue
        places = [_place(each.get(name), name in TIMES) for each in fields]
        if any(place is None for place in places) or len({type(place) for place in places}) > 1:
            continue
        speakers = [str(next((each[role] for role in roles if role in each), "")) for each in fields]
        if name in TURNS and len(set(zip(speakers, places, strict=True))) < len(places):
            continue
        try:
            order = sorted(range(len(places)), key=lambda i: places[i])  # type: ignore[arg-type,return-value]
        except TypeError:  # times with and without a zone
            continue
        moved = order != list(range(len(places)))
        return [messages[i] for i in order], name if moved else None
    return list(messages), None


def _place(value: Any, is_time: bool) -> float | datetime | None:
    """Returns a number, also one that stands as text, or a time in ISO 8601; None for anything else."""
    if isinstance(value, datetime):
        return value
    try:
        number = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else math.nan
    except (ValueError, OverflowError):
        number = math.nan
    if math.isfinite(number):
        return number
    try:
        return datetime.fromisoformat(value.strip()) if is_time and isinstance(value, str) else None
    except ValueError:
        return None
