"""The prompts of a language model as a judge, the schemas of its replies, and their strict parsing.

Issues are requested for a whole session (Appendix E), actions for a single user message (Appendix D). A reply is always
checked, even if sampling was constrained by the schema: an unknown category or message number makes it malformed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rlenv.core.errors import RlenvError
from rlenv.core.taxonomy import GROUP_NAMES, Action, Issue, Taxonomy
from rlenv.core.types import Message, Session
from rlenv.prompting.cutting import encodable
from rlenv.speakers.completers import ChatMessages, Schema

ISSUE_PROMPT = """\
You review a mental health support chatbot. Below are the categories of issues that its messages can have, and then \
one whole session. Find the messages of the chatbot with an issue. Most have none.
Judge a message in its session: what the user said before, and how they take it afterwards. Where a category's \
description asks that the user shows something, it applies only if they do. Give every message where an issue occurs, \
by the number in its brackets.
Reply with JSON alone: {"issues": [{"category": id, "messages": [number, ...]}, ...]}, and {"issues": []} for none."""
ACTION_PROMPT = """\
You annotate what users do in conversations with a mental health support chatbot. Below are the categories, and then \
one message of a user. Name all categories that apply to this message, and only what its words show. What was said \
before it only helps to understand it.
Reply with JSON alone: {"actions": [id, ...]}, and {"actions": []} if none applies."""
MAX_ACTIONS = 8
"""The most categories per message that the schema allows."""


class MalformedReply(RlenvError):
    """A judge's reply cannot be used; the error gives the reason without quoting the reply."""


@dataclass(frozen=True)
class Question:
    """One request: the chat, the schema of the reply, and the messages of the session that it is about."""

    messages: ChatMessages
    schema: Schema
    places: tuple[int, ...]
    """Indices of the session's messages that have the numbers 1, 2, ... in the question."""


def issue_question(session: Session, taxonomy: Taxonomy) -> Question | None:
    """Returns the question for the issues of a session's chatbot messages; None if there are no such messages."""
    places = tuple(i for i, m in enumerate(session.messages) if m.role == "assistant")
    if not places:
        return None
    number = {place: n for n, place in enumerate(places, start=1)}
    lines = [
        f"Chatbot [{number[i]}]: {_text(m)}" if i in number else f"User: {_text(m)}"
        for i, m in enumerate(session.messages)
    ]
    known = "\n".join(_known(session))
    shown = (f"What is known of the user:\n{known}\n\n" if known else "") + "The session:\n" + "\n".join(lines)
    issue: Schema = {
        "type": "object",
        "properties": {
            "category": {"type": "string", "enum": list(taxonomy.issue_ids())},
            "messages": {
                "type": "array",
                "items": {"type": "integer", "minimum": 1, "maximum": len(places)},
                "minItems": 1,
                "maxItems": len(places),
            },
        },
        "required": ["category", "messages"],
        "additionalProperties": False,
    }
    schema = _list_schema("issues", issue, len(taxonomy.issues))
    return Question(_chat(ISSUE_PROMPT, taxonomy.issues, shown), schema, places)


def action_question(session: Session, place: int, taxonomy: Taxonomy, num_before: int) -> Question:
    """Returns the question for the actions of the user message at ``place``, with ``num_before`` messages before it."""
    before = session.messages[max(0, place - num_before) : place]
    lines = [("User: " if m.role == "user" else "Chatbot: ") + _text(m) for m in before]
    shown = "\n".join(
        [*(["Said before:", *lines, ""] if lines else []), "The message:", _text(session.messages[place])]
    )
    item: Schema = {"type": "string", "enum": list(taxonomy.action_ids())}
    schema = _list_schema("actions", item, min(MAX_ACTIONS, len(taxonomy.actions)))
    return Question(_chat(ACTION_PROMPT, taxonomy.actions, shown), schema, (place,))


def read_issues(reply: str, question: Question, taxonomy: Taxonomy) -> dict[int, tuple[str, ...]]:
    """Returns the issues of each message that has some, by its index in the session.

    Raises:
        MalformedReply: the reply is not JSON of this form, or has an unknown category or message number.
    """
    found: dict[int, list[str]] = {}
    for entry in _items(reply, "issues"):
        if not isinstance(entry, dict) or not isinstance(entry.get("messages"), list):
            raise MalformedReply('an entry of "issues" is not {"category": ..., "messages": [...]}')
        (category,) = _known_ids([entry.get("category")], taxonomy.issue_ids())
        for number in entry["messages"]:
            if type(number) is not int or not 1 <= number <= len(question.places):
                raise MalformedReply(f"a message number is not in 1 to {len(question.places)}")
            found.setdefault(question.places[number - 1], []).append(category)
    return {place: tuple(dict.fromkeys(issues)) for place, issues in found.items()}


def read_actions(reply: str, question: Question, taxonomy: Taxonomy) -> dict[int, tuple[str, ...]]:
    """Returns the actions of the question's message, by its index in the session; raises as ``read_issues``."""
    actions = _known_ids(_items(reply, "actions"), taxonomy.action_ids())
    return {question.places[0]: tuple(dict.fromkeys(actions))}


def _chat(prompt: str, categories: Sequence[Action | Issue], shown: str) -> ChatMessages:
    lines, group = [], None
    for category in categories:
        if category.group != group:
            group = category.group
            lines.append(f"{GROUP_NAMES[group]}:")
        lines.append(f"- {category.id}: {category.name}. {category.description}")
    return [
        {"role": "system", "content": f"{prompt}\n\nCategories:\n" + "\n".join(lines)},
        {"role": "user", "content": shown},
    ]


def _list_schema(name: str, item: Schema, most: int) -> Schema:
    return {
        "type": "object",
        "properties": {name: {"type": "array", "items": item, "maxItems": most}},
        "required": [name],
        "additionalProperties": False,
    }


def _text(message: Message) -> str:
    return encodable(message.content).strip().replace("\n", "\n  ")


def _known(session: Session) -> Iterable[str]:
    """Returns what the chatbot may know besides the session; not its summary, which was written afterwards."""
    c = session.context
    return (f"- {encodable(t)}" for t in (c.profile, c.situation, c.long_term_context, *c.previous_summaries) if t)


def _items(reply: str, name: str) -> list[Any]:
    """Returns the list under ``name``; text around the outermost braces, such as code fences, is ignored."""
    start, end = reply.find("{"), reply.rfind("}") + 1
    try:
        value = json.loads(reply[start:end]) if 0 <= start < end else None
    except (ValueError, RecursionError):
        value = None
    if value is None:
        raise MalformedReply(f"a reply of {len(reply)} characters is not a JSON object (if cut off, raise max_tokens)")
    if not isinstance(value, dict) or not isinstance(value.get(name), list):
        raise MalformedReply(f'a reply has no list "{name}"')
    return list(value[name])


def _known_ids(ids: Sequence[Any], known: Sequence[str]) -> list[str]:
    wrong = sum(not isinstance(i, str) or i not in known for i in ids)
    if wrong:
        raise MalformedReply(f"{wrong} of {len(ids)} categories named are not in the taxonomy")
    return list(ids)
