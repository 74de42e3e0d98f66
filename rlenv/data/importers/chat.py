"""Imports chats: sessions files, and the forms of other tools (ShareGPT, OpenAI's messages, prompt and completion ...).

What people and chatbot said is kept. System messages, tool calls and pictures are left out and counted; so are changed
names and made ids. Names of roles that may mean either side are not guessed. Files may be JSON,
JSON lines, CSV, Parquet or a saved data set (``rlenv.data.importers.records``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlenv.core.errors import ConfigError, Problem, there_are
from rlenv.core.files import describe, short_name
from rlenv.core.types import Message, OpenRecord, Session, SessionContext
from rlenv.data.checks import role_hint, short_id
from rlenv.data.importers.forms import (
    CONTENT,
    MESSAGES,
    PAIRS,
    ROLE,
    chats_in,
    is_message,
    listed,
    split,
    with_messages,
)
from rlenv.data.importers.order import along_replies, in_own_order
from rlenv.data.importers.records import read_records
from rlenv.data.importers.report import ImportOptions, ImportReport, finish

SESSION_ID = (
    *("session_id", "conversation_id", "conversation_hash", "dialogue_id", "dialog_id", "chat_id", "thread_id"),
    *("conversation", "session", "id", "uuid"),
)
CHATBOT = ("chatbot", "model", "model_name")
ROLES = {
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "ai", "bot", "chatbot", "model"), "assistant"),
}
"""Names that mean one side in every tool."""
NOT_SAID = frozenset(
    ("system", "developer", "tool", "function", "function_call", "tool_call", "tool_response", "observation", "ipython")
)
"""Roles of messages that nobody said."""
NOT_TEXT = ("tool_calls", "function_call", "tool_call_id", "audio")
RECORD_NAMES = ("session_id", "user_id", "chatbot", "source", "messages")
MESSAGE_NAMES = tuple(Message.model_fields)
CONTEXT_NAMES = tuple(f"context.{name}" for name in SessionContext.model_fields)
MAY_BE_NULL = {"profile", "situation", "long_term_context", "current_summary", "actions", "issues"}
ROW_HINT = "a row is a message here: name the column that says of which chat, as in --map COLUMN=session_id"
MAX_ID = 200
"""Characters; longer text is no id."""


@dataclass(frozen=True)
class ChatOptions:
    """How the names of a source are read."""

    roles: Mapping[str, str] = field(default_factory=dict)
    """Names of roles to "user" or "assistant"."""
    drop_roles: Sequence[str] = ()
    """Roles whose messages are left out, besides ``NOT_SAID``."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Names of fields to those of a session, of its messages (``role``) or of its context (``context.profile``)."""

    def __post_init__(self) -> None:
        known = (*RECORD_NAMES, *MESSAGE_NAMES, *CONTEXT_NAMES)
        if unknown := [new for new in self.names.values() if new not in known]:
            raise ConfigError(f"--map ...={unknown[0]}: a session has no such field; {there_are(known, unknown[0])}")


def import_chat(
    path: str | Path, options: ImportOptions | None = None, chat: ChatOptions | None = None
) -> tuple[list[Session], ImportReport]:
    """Returns the sessions of a file or of a saved data set, and the report of the import.

    Ids that are numbers become text; null in a known field that cannot be null counts as absent.

    Args:
        path: the file, plain or gzipped, or the folder.
        options: what to merge, drop and skip.
        chat: how names are read.

    Raises:
        DataError: the file has problems; all of them are reported.
    """
    reading = _Reading(Path(path), chat or ChatOptions())
    return finish(reading.objects(), reading.problems, reading.report, options or ImportOptions())


class _Reading:
    """One import under way: its options, problems and counts."""

    def __init__(self, path: Path, options: ChatOptions) -> None:
        self.path, self.options = path, options
        self.problems: list[Problem] = []
        self.report = ImportReport()
        self.num = 0
        self.roles = {**ROLES, **options.roles}
        self.drop = (NOT_SAID | set(options.drop_roles)) - set(options.roles)

    def objects(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yields (place, object in the form of ``Session``) of each chat."""
        rows: dict[str, tuple[str, dict[str, Any]]] = {}
        for where, record in self._records():
            record = self._named(record)
            if "messages" not in record and {"role", "content"} <= record.keys():
                self._add_row(rows, where, record)
                continue
            for chat in split(record):
                value = self._session(chat, where)
                if value is not None:
                    yield where, value
        self._check_ids(rows)
        for where, record in rows.values():
            value = self._session(record, where)
            if value is not None:
                yield where, value

    def _records(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yields the objects of the file; a list of messages is one chat, another list holds several."""
        found = False
        for where, value in read_records(self.path, self.problems):
            for record in self._flat(where, value):
                found = True
                yield record
        if not found and not self.problems:
            self.problems.append(Problem(str(self.path), None, "", "at least one chat", "none"))

    def _flat(self, where: str, value: Any) -> Iterator[tuple[str, dict[str, Any]]]:
        if isinstance(value, dict):
            held = list(chats_in({self.options.names.get(name, name): item for name, item in value.items()}))
            for name, chats in held:
                yield from self._flat(f"{where}.{name}", chats)
            if not held:
                yield where, value
        elif isinstance(value, list) and value and all(map(is_message, value)):
            yield where, {"messages": value}
        elif isinstance(value, list):
            for i, item in enumerate(value):
                yield from self._flat(f"{where}[{i}]", item)
        else:
            self.problems.append(Problem(where, None, "", "a chat as an object or a list of messages", describe(value)))

    def _named(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the record with its own names replaced by those of a session."""
        names = {key: self.options.names.get(key, key) for key in record}
        named = {new: record[key] for key, new in names.items()}
        _leave_out_null(named, Session, "", self.report)
        for key, new in names.items():
            self.report.changed[f"{key} to {new}"] += key != new and new in RECORD_NAMES
        named, form = with_messages(named, self.roles, self.drop)
        if form is not None:
            self.report.changed[f"{form}: made a list of messages"] += 1
        for new, candidates in (("messages", MESSAGES), ("session_id", SESSION_ID), ("chatbot", CHATBOT)):
            found = next((n for n in candidates if n in named and _fits(new, named[n])), None)
            if found is not None and new not in named:
                named[new] = named.pop(found)
                self.report.changed[f"{found} to {new}"] += 1
        if "messages" not in named and is_message(named):
            named = _renamed(named, (("role", ROLE), ("content", CONTENT)))
        return named

    def _add_row(self, rows: dict[str, tuple[str, dict[str, Any]]], where: str, record: dict[str, Any]) -> None:
        """Adds a row that is one message to the chat that it belongs to."""
        session_id = record.pop("session_id", None)
        if session_id is None:
            self.problems.append(Problem(where, None, "session_id", "this column", "none with this name", ROW_HINT))
            return
        message = {name: record.pop(name) for name in [*record] if name not in ("user_id", "chatbot", "source")}
        chat = rows.setdefault(str(session_id), (where, {"session_id": str(session_id), **record, "messages": []}))[1]
        chat["messages"].append(message)

    def _check_ids(self, rows: Mapping[str, tuple[str, dict[str, Any]]]) -> None:
        """Refuses rows of which each, a message, would become a chat of its own by an id that is the row's."""
        asked_for = "session_id" in self.options.names.values()
        if asked_for or len(rows) < 2 or any(len(chat["messages"]) > 1 for _, chat in rows.values()):
            return
        where = next(iter(rows.values()))[0]
        for column in ("id", "uuid"):
            if self.report.changed[f"{column} to session_id"]:
                came = f"another {column!r} in every row"
                self.problems.append(Problem(where, None, "session_id", "an id that messages share", came, ROW_HINT))

    def _session(self, record: dict[str, Any], where: str) -> dict[str, Any] | None:
        self.num += 1
        messages = listed(record.get("messages"))
        context = record.get("context") if isinstance(record.get("context"), dict) else None
        moved = {name[8:]: record.pop(name) for name in CONTEXT_NAMES if name in record}
        if moved:
            context = record["context"] = {**(context or {}), **moved}
        if context is not None:
            _leave_out_null(context, SessionContext, "context.", self.report)
        if not isinstance(messages, list):
            expected = f"a list of messages under one of {', '.join(MESSAGES)}, or {PAIRS[0][0]} and {PAIRS[0][1]}"
            hint = "name the field that has it, as in --map FIELD=messages"
            came = describe(messages) if "messages" in record else f"the fields {_shown(record)}"
            self.problems.append(Problem(where, None, "messages", expected, came, hint))
            return None
        for name in ("session_id", "user_id"):
            if type(record.get(name)) is int:
                record[name] = str(record[name])
                self.report.changed[f"{name}: number to text"] += 1
        if "session_id" not in record:
            record["session_id"] = f"{self.path.name.partition('.')[0]}-{self.num}"
            self.report.changed["session_id: made from the file's name and the position"] += 1
        messages = self._ordered(messages)
        found = len(self.problems)
        session_id = short_id(record["session_id"])
        said = [self._message(m, f"messages[{i}]", where, session_id) for i, m in enumerate(messages)]
        record["messages"] = [message for message in said if message is not None]
        return record if len(self.problems) == found else None

    def _ordered(self, messages: list[Any]) -> list[Any]:
        """Returns the messages in their own order, without other branches; counts what has changed."""
        roles = [old for old, new in self.options.names.items() if new == "role"]
        ordered, by = in_own_order(messages, [*roles, *ROLE])
        path, num_others = along_replies(ordered)
        if num_others:
            self.report.dropped["messages on other branches of replies"] += num_others
        elif path != ordered:
            by = "replies"
        if by is not None:
            self.report.changed[f"chats put in the order of their messages' {by}"] += 1
        return path

    def _message(self, value: Any, place: str, where: str, session_id: str | None) -> dict[str, Any] | None:
        """Returns a message in our form; None if nobody said it, or it has problems."""
        if not isinstance(value, Mapping):
            hint = "" if not isinstance(value, str) else "who said it? rlenv does not guess speakers"
            self.problems.append(Problem(where, session_id, place, "an object", describe(value), hint))
            return None
        own = {self.options.names.get(name, name): item for name, item in value.items()}
        message = _renamed(own, (("role", ROLE), ("content", CONTENT)))
        role = message.get("role")
        role = role.get("role") if isinstance(role, Mapping) else role  # the author of ChatGPT's export
        name = role.strip() if isinstance(role, str) else role
        if isinstance(name, str) and (name in self.drop or name.lower() in self.drop):
            self.report.dropped[f"messages of role {short_name(name)}"] += 1
            return None
        ours = self.roles.get(name, self.roles.get(name.lower())) if isinstance(name, str) else None
        if ours is None:
            came = short_name(name)
            hint = f"{role_hint(name)}; say so with --role NAME=user or --role NAME=assistant, or --drop-role NAME"
            if "role" not in message:
                came = f"the fields {_shown(value)}"
                hint = (
                    "name the field that says who speaks, as in --map FIELD=role, or if a field is a speaker, say so "
                )
                hint += "with --role FIELD=user or --role FIELD=assistant"
            self.problems.append(Problem(where, session_id, f"{place}.role", "'user' or 'assistant'", came, hint))
            return None
        self.report.changed[f"messages[].role: {short_name(role)} to '{ours}'"] += role != ours
        for part in NOT_TEXT:
            if message.pop(part, None) is not None:
                self.report.dropped[f"messages[].{part}"] += 1
        content = self._text(message.get("content"))
        if content is None:
            if not isinstance(message.get("content"), (type(None), list, Mapping)):
                came = describe(message["content"])
                self.problems.append(Problem(where, session_id, f"{place}.content", "text or a list of parts", came))
            else:
                self.report.dropped["messages without text"] += 1
            return None
        for kind in ("actions", "issues"):
            if isinstance(labels := message.get(kind), str):
                several = listed(labels)
                message[kind] = several if isinstance(several, list) else [labels]
        _leave_out_null(message, Message, "messages[].", self.report)
        return {**message, "role": ours, "content": content}

    def _text(self, content: Any) -> str | None:
        """Returns the text of a message's content, which may be a list of parts; None if it has none."""
        if isinstance(content, str):
            return content
        parts = content if isinstance(content, list) else [content] if isinstance(content, Mapping) else []
        texts = []
        for part in parts:
            text = part.get("text") if isinstance(part, Mapping) else part
            if isinstance(part, Mapping) and isinstance(part.get("parts"), list):
                text = self._text(part["parts"])
            if isinstance(text, str):
                texts.append(text)
            else:
                kind = part.get("type") if isinstance(part, Mapping) else None
                self.report.dropped[f"parts of messages: {short_name(kind) if kind else 'not text'}"] += 1
        return "\n".join(texts) if texts else None


def _renamed(value: Mapping[str, Any], names: Iterable[tuple[str, Sequence[str]]]) -> dict[str, Any]:
    """Returns the object with the first of several names as the one that we use."""
    result = dict(value)
    for new, candidates in names:
        found = next((name for name in candidates if name in result), None)
        if found not in (None, new):
            result[new] = result.pop(found)  # type: ignore[arg-type]
    return result


def _leave_out_null(value: dict[str, Any], kind: type[OpenRecord], place: str, report: ImportReport) -> None:
    for name in kind.model_fields:
        if name in value and value[name] is None and name not in MAY_BE_NULL and name != "content":
            del value[name]
            report.changed[f"{place}{name}: null left out"] += 1


def _fits(name: str, value: Any) -> bool:
    """Returns whether a value can be what a name of ours means."""
    if name == "messages":
        return isinstance(listed(value), list)
    is_id = isinstance(value, str) and len(value) <= MAX_ID and "\n" not in value
    return (is_id and not value.lstrip().startswith("[")) or type(value) is int


def _shown(record: Mapping[str, Any]) -> str:
    return ", ".join(short_name(name) for name in list(record)[:12]) or "none"
