"""Checks one session object: reports every problem with how to fix it, and never any message text.

Used for sessions files and for imports. Depends on the records of ``rlenv.core.types``; independent of files.
"""

from __future__ import annotations

import difflib
from typing import Any

from pydantic import ValidationError

from rlenv.core.errors import Problem
from rlenv.core.files import describe, short_name
from rlenv.core.types import Session

ROLE_ALIASES = {
    **dict.fromkeys(("client", "customer", "human", "me", "patient", "person", "seeker", "speaker", "usr"), "user"),
    **dict.fromkeys(
        ("agent", "ai", "bot", "chatbot", "counselor", "counsellor", "gpt", "listener", "model", "supporter"),
        "assistant",
    ),
    "therapist": "assistant",
}
"""Names of the two roles in other data sets."""

CHAT = "`rlenv import chat`"
_EXPECTED = {
    "missing": "this field",
    "string_type": "text",
    "string_too_short": "text that is not empty",
    "tuple_type": "a list",
    "literal_error": "'user' or 'assistant'",
    "model_type": "an object",
    "model_attributes_type": "an object",
}


def check_session(
    value: dict[str, Any], where: str, problems: list[Problem], *, alternate: bool = False
) -> Session | None:
    """Returns the session in a JSON object, or None if it has problems, which are appended to ``problems``.

    Args:
        value: the object of one line.
        where: ``file:line``, for the problems.
        problems: every problem found is appended here.
        alternate: treat consecutive messages of the same speaker as problems too.
    """
    session_id = short_id(value.get("session_id"))
    found: list[Problem] = []
    if "messages" not in value:
        found.append(_missing_messages(value, where, session_id))
    session = None
    try:
        session = Session.model_validate(value)
    except ValidationError as error:
        for detail in error.errors(include_url=False, include_context=False):
            found.append(_problem_of(dict(detail), where, session_id))
    if alternate:
        found += _neighbour_problems(value, where, session_id)
    problems += found
    return session if not found else None


def short_id(value: Any) -> str | None:
    """Returns a session id for an error line: printable, at most 60 characters; None if it is not text."""
    if not isinstance(value, str) or not value:
        return None
    shown = "".join(c if c.isprintable() else "?" for c in value)
    return shown if len(shown) <= 60 else shown[:57] + "..."


def _problem_of(detail: dict[str, Any], where: str, session_id: str | None) -> Problem:
    kind, path, came = detail["type"], field_path(detail["loc"]), detail["input"]
    expected = _EXPECTED.get(kind, "another value")
    if kind == "missing":
        return Problem(where, session_id, path, expected, "nothing", "add it")
    if kind == "literal_error":
        return Problem(where, session_id, path, expected, short_name(came), role_hint(came))
    if came is None:
        is_content = path.endswith(".content")
        hint = f"{CHAT} leaves out such messages" if is_content else "leave the field out if it has no value"
        return Problem(where, session_id, path, expected, "null", hint)
    hint = "write it in quotes" if kind == "string_type" and isinstance(came, (int, float)) else ""
    if kind == "tuple_type" and isinstance(came, str):
        hint = f"is it a list that is written as text? {CHAT} reads it" if path == "messages" else "put it in [ ]"
    if kind == "string_type" and isinstance(came, list) and path.endswith(".content"):
        hint = f"{CHAT} joins parts of text"
    return Problem(where, session_id, path, expected, describe(came), hint)


def role_hint(role: Any) -> str:
    """Returns a hint what to write instead of an unknown role.

    >>> role_hint("Asistant"), role_hint("patient")
    ("did you mean 'assistant'?", "did you mean 'user'?")
    """
    if not isinstance(role, str):
        return "every message needs the speaker's role"
    name = role.strip().lower()
    if name in ("system", "developer", "tool", "function"):
        return f"instructions and tool calls are not part of a session; {CHAT} leaves them out"
    near = difflib.get_close_matches(name, ["user", "assistant", *ROLE_ALIASES], n=1)
    guess = ROLE_ALIASES.get(near[0], near[0]) if near else ""
    return f"did you mean '{guess}'?" if guess else "the user writes as 'user', the chatbot as 'assistant'"


def field_path(loc: tuple[str | int, ...]) -> str:
    """Returns the path of a field in the usual notation.

    >>> field_path(("messages", 4, "role"))
    'messages[4].role'
    """
    path = ""
    for step in loc:
        path += f"[{step}]" if isinstance(step, int) else f".{step}" if path else step
    return path


def _missing_messages(value: dict[str, Any], where: str, session_id: str | None) -> Problem:
    near = difflib.get_close_matches("messages", [str(key) for key in value], n=1, cutoff=0.7)
    known = [
        key for key in ("dialog", "dialogue", "conversation", "conversations", "turns", "utterances") if key in value
    ]
    hint = "a session without messages has []"
    if near or known:
        hint = f"is '{(near + known)[0]}' this list? {CHAT} reads the usual names, and takes --map OLD=messages"
    return Problem(where, session_id, "messages", "a list", "nothing", hint)


def _neighbour_problems(value: dict[str, Any], where: str, session_id: str | None) -> list[Problem]:
    messages = value.get("messages")
    roles = [m.get("role") if isinstance(m, dict) else None for m in messages] if isinstance(messages, list) else []
    return [
        Problem(
            where,
            session_id,
            f"messages[{i}].role",
            "the other speaker",
            repr(role),
            "user and assistant must alternate.",
            f"messages[{i}].role is '{role}' after '{role}'",
        )
        for i, role in enumerate(roles)
        if i and role in ("user", "assistant") and role == roles[i - 1]
    ]
