"""The forms in which a record of other tools can hold a chat, turned into lists of messages.

    {"turns": [{"user": ..., "assistant": ...}]}     a field for each side
    {"history": [["hi", "hello"]], "query": ..., "response": ...}
    {"text": "Human: hi\\nAssistant: hello"}          labels, or the marks of a chat template
    {"mapping": {...}}                               the tree of a ChatGPT export
    {"prompt": ..., "completion": ...}               one message of each side

Independent of what becomes of the messages. Names of speakers are those that the caller knows; nothing is guessed.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from rlenv.data.importers.transcripts import Messages, read_text

MESSAGES = (
    *("messages", "conversation", "conversations", "dialog", "dialogue", "turns", "utterances", "chat", "history"),
    *("chat_messages", "chat_history", "conversation_history", "transcript"),
)
"""Names of a chat's list of messages, or of its text."""
PAST = ("history", "chat_history", "conversation_history")
"""Names of what came before a pair of messages."""
TEXT, CHOSEN = "text", "chosen"
"""A chat's text, and the better of two chats."""
ROLE = ("role", "from", "speaker", "author", "sender", "speaker_id")
CONTENT = ("content", "value", "text", "utterance", "message", "parts", "body")
PAIRS = (
    *(("prompt", "completion"), ("prompt", "response"), ("prompt", "chosen"), ("instruction", "output")),
    *(("question", "answer"), ("questiontext", "answertext"), ("query", "response"), ("input", "output")),
    *(("user", "assistant"), ("human", "assistant"), ("user", "bot"), ("context", "response")),
)
"""Fields of records with one message of each side, in any case."""
MAX_TEXT_LIST = 10_000_000


def is_message(value: Any) -> bool:
    """Returns whether a value has a message's speaker and content."""
    return isinstance(value, Mapping) and any(n in value for n in ROLE) and any(n in value for n in CONTENT)


def listed(value: Any) -> Any:
    """Returns the list that stands as text, in JSON or as Python prints it; any other value as it is."""
    if not isinstance(value, str) or not value.lstrip().startswith("[") or len(value) > MAX_TEXT_LIST:
        return value
    for read in (json.loads, ast.literal_eval):
        try:
            return read(value.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return value


def chats_in(value: Mapping[str, Any]) -> Iterator[tuple[str, list[Any]]]:
    """Yields (name, list) of the fields that hold several chats each, as in ``{"data": [...]}``."""
    for name, held in () if _is_chat(value) else value.items():
        if not (isinstance(held, list) and held and all(isinstance(item, Mapping) for item in held)):
            continue
        if all(map(_has_list, held)) or (name not in MESSAGES and all(_has_list(one) or pair_of(one) for one in held)):
            yield name, held


def _has_list(value: Mapping[str, Any]) -> bool:
    """Returns whether a record has a list where messages can be, or a tree."""
    lists = any(isinstance(listed(value.get(name)), list) for name in MESSAGES)
    return lists or isinstance(value.get("mapping"), Mapping)


def _is_chat(value: Mapping[str, Any]) -> bool:
    """Returns whether a record has what is read as one chat."""
    several = (listed(value.get(name)) for name in MESSAGES)
    own = any(
        isinstance(each, list) and not any(isinstance(e, Mapping) and _has_list(e) for e in each) for each in several
    )
    return own or isinstance(value.get("mapping"), Mapping) or TEXT in value or pair_of(value) is not None


def with_messages(
    record: Mapping[str, Any], roles: Mapping[str, str], not_said: Collection[str]
) -> tuple[dict[str, Any], str | None]:
    """Returns the record with a list of messages where it has a chat in another form, and the name of its field.

    Args:
        record: the record.
        roles: names of speakers, in lower case or as given, to "user" or "assistant".
        not_said: names of speakers whose messages are left out later.
    """
    result = dict(record)
    if is_message(record):  # a row of a table
        return result, None
    if isinstance(tree := record.get("mapping"), Mapping):
        del result["mapping"]
        return {**result, "messages": _branch(tree, result.pop("current_node", None))}, "mapping"
    pair = pair_of(record)
    for name in (*MESSAGES, TEXT, *([] if pair else [CHOSEN])):
        value = listed(record.get(name))
        if isinstance(value, list) and all(map(is_message, value)):
            if name != CHOSEN and not (pair and name in PAST):  # the chat's messages, whatever stands beside them
                return result, None
            found: Messages | None = list(value)
        else:
            found = read_text(value, roles, not_said) if isinstance(value, str) else _by_side(value, roles)
        if found is None:
            continue
        del result[name]
        if pair and name in PAST:
            found += _pair(result, pair)
        return {**result, "messages": found}, name
    return result, None


def pair_of(record: Mapping[str, Any]) -> tuple[str, str] | None:
    """Returns the names of the fields with one message of each side; None where there are none."""
    names = {name.lower(): name for name in record if isinstance(name, str)}
    for asked, answered in PAIRS:
        if asked in names and answered in names and not isinstance(record[names[asked]], Mapping):
            return names[asked], names[answered]
    return None


def split(record: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields the chats of a record: one, or both of an arena's; one message of each side becomes two messages."""
    arena = [side for side in ("a", "b") if isinstance(listed(record.get(f"conversation_{side}")), list)]
    if "messages" in record:
        yield record
    elif arena:
        common = {k: v for k, v in record.items() if k[-2:] not in ("_a", "_b")}
        for side in arena:
            of_side = {"messages": record[f"conversation_{side}"]}
            if "session_id" in record:
                of_side["session_id"] = f"{record['session_id']}-{side}"
            if isinstance(record.get(f"model_{side}"), str):
                of_side["chatbot"] = record[f"model_{side}"]
            yield common | of_side
    elif pair := pair_of(record):
        rest = dict(record)
        messages = _pair(rest, pair)
        yield {**rest, "messages": messages}
    else:
        yield record


def _pair(record: dict[str, Any], pair: tuple[str, str]) -> Messages:
    """Takes the fields of ``pair`` out of the record, and returns the messages in them."""
    asked, answered = pair
    first, second = _side(record.pop(asked), "user"), _side(record.pop(answered), "assistant")
    if asked.lower() == "instruction" and (more := record.pop("input", None)) and first:
        first[-1]["content"] = f"{first[-1]['content']}\n{more}"
    return [*first, *second]


def _side(value: Any, role: str) -> Messages:
    """Returns the messages of a prompt or a completion, which is a text or a list of messages."""
    found = listed(value)
    has_messages = isinstance(found, list) and bool(found) and all(map(is_message, found))
    return list(found) if has_messages else [{"role": role, "content": value}]


def _by_side(value: Any, roles: Mapping[str, str]) -> Messages | None:
    """Returns the messages of turns that have both sides: two texts, or a field for each side."""
    if not isinstance(value, list) or not value or any(map(is_message, value)):
        return None
    messages: Messages = []
    for turn in value:
        if isinstance(turn, (list, tuple)) and len(turn) == 2 and all(isinstance(t, str | None) for t in turn):
            sides: Sequence[tuple[str, Any]] = (("user", turn[0]), ("assistant", turn[1]))
        elif isinstance(turn, Mapping) and (pair := pair_of(turn)):
            sides = (("user", turn[pair[0]]), ("assistant", turn[pair[1]]))
        elif isinstance(turn, Mapping):
            sides = [(name, said) for name, said in turn.items() if str(name) in roles or str(name).lower() in roles]
            if not sides:
                return None
        else:
            return None
        messages += [{"role": role, "content": said} for role, said in sides if said is not None]
    return messages


def _branch(tree: Mapping[str, Any], last: Any) -> list[Any]:
    """Returns the messages from the root of a tree to the node ``last``, or to the newest of each node's children."""
    nodes = {name: node for name, node in tree.items() if isinstance(node, Mapping)}
    if last not in nodes:
        last = next((name for name, node in nodes.items() if node.get("parent") not in nodes), None)
        seen = {last}
        while last is not None and (children := [c for c in nodes[last].get("children") or () if c in nodes]):
            if children[-1] in seen:
                break
            last = children[-1]
            seen.add(last)
    path: list[Any] = []
    passed = set()
    while last in nodes and last not in passed:
        passed.add(last)
        path.append(nodes[last].get("message"))
        last = nodes[last].get("parent")
    return [message for message in reversed(path) if message is not None]
