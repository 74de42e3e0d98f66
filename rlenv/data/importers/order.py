"""Puts the messages of a chat into the order that they have by their own numbers, times or replies.

Exports may be newest first, tables in any order, and a thread may have branches.
"""

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

IDS = ("message_id", "id", "utterance_id", "uuid", "message_uuid")
PARENTS = ("parent_id", "reply_to", "reply_to_id", "parent_message_id", "parent_message_uuid", "parent", "parent_uuid")
"""Names of the id of the message that a message replies to."""


def in_own_order(messages: Sequence[Any], roles: Sequence[str]) -> tuple[list[Any], str | None]:
    """Returns the messages in the order of the first field that all of them have, and its name if any has moved.

    Messages with equal numbers or times keep their order. Numbers of which one speaker has the same twice are no order,
    since they count something else or begin again within the chat.

    Args:
        messages: objects; other values are left where they are.
        roles: names of the field with the speaker.

    >>> in_own_order([{"turn": 2, "role": "bot"}, {"turn": "1", "role": "user"}], ["role"])
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
        speakers = [str(next((each[role] for role in map(str.lower, roles) if role in each), "")) for each in fields]
        if name in TURNS and len(set(zip(speakers, places, strict=True))) < len(places):
            continue
        try:
            order = sorted(range(len(places)), key=lambda i: places[i])  # type: ignore[arg-type,return-value]
        except TypeError:  # times with and without a zone
            continue
        moved = order != list(range(len(places)))
        return [messages[i] for i in order], name if moved else None
    return list(messages), None


def along_replies(messages: Sequence[Any]) -> tuple[list[Any], int]:
    """Returns the messages on the path of replies to the last one without a reply, and how many are on other branches.

    All messages are returned as they are where they do not all have ids, or do not form one tree.

    >>> along_replies([{"id": 2, "reply_to": 1}, {"id": 1, "reply_to": None}])
    ([{'id': 1, 'reply_to': None}, {'id': 2, 'reply_to': 1}], 0)
    """
    known = [message for message in messages if isinstance(message, Mapping)]
    own, parent = _field(known, IDS), _field(known, PARENTS)
    if own is None or parent is None or len(known) < len(messages):
        return list(messages), 0
    by_id = {str(message.get(own)): message for message in known if message.get(own) is not None}
    roots = [message for message in known if str(message.get(parent)) not in by_id]
    answered = {str(message.get(parent)) for message in known}
    leaves = [message for message in known if str(message.get(own)) not in answered]
    if len(by_id) < len(known) or len(roots) != 1 or not leaves:
        return list(messages), 0
    path = [leaves[-1]]
    while (before := by_id.get(str(path[-1].get(parent)))) is not None:
        if len(path) == len(known):  # a cycle
            return list(messages), 0
        path.append(before)
    return path[::-1], len(known) - len(path)


def _field(messages: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str | None:
    """Returns the first of the names that a message has as a field."""
    return next((name for name in names if any(name in message for message in messages)), None)


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
