"""Reads the answer in a response of an OpenAI-compatible endpoint, or says why there is none."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from rlenv.core.errors import EngineError
from rlenv.speakers.thoughts import without_thoughts

NAME = re.compile(r"[\w.\[\]-]{1,40}")
"""A server's short identifiers, which messages may show: its sentences may quote the conversation."""


@dataclass(frozen=True)
class ChatAnswer:
    """A model's answer."""

    text: str
    """The text, stripped and without the thoughts of a reasoning model; empty if the model generated none."""
    truncated: bool = False
    """Whether the limit of tokens cut the answer."""
    refused: bool = False
    """Whether the text is the model's refusal to answer."""


class NoCompletion(Exception):
    """A response that is no chat completion, though its status says that all is well."""


def read_answer(response: Any, place: str) -> ChatAnswer:
    """Returns the answer in a response of the server.

    Raises:
        NoCompletion: it has another shape; another attempt may help.
        EngineError: it has no text, and another attempt would give none either.
    """
    choices = getattr(response, "choices", None)
    if not isinstance(choices, list) or not choices:
        problem = getattr(response, "error", None)
        code = problem.get("code") if isinstance(problem, dict) else None
        if code is not None and NAME.fullmatch(str(code)):
            raise NoCompletion(f"answered with error {code} in place of a choice")
        if isinstance(response, str):
            raise NoCompletion("answered with a page of text, which is no chat completion; check the address")
        raise NoCompletion("answered with no chat completion, or one without a choice")
    message = getattr(choices[0], "message", None)
    if message is None:
        raise NoCompletion("answered with a choice that has no message")
    why, text = getattr(choices[0], "finish_reason", None), _text(getattr(message, "content", None))
    if why == "content_filter":
        raise EngineError(f"{place}: the server's content filter stopped the answer")
    refusal = getattr(message, "refusal", None)
    if not text and isinstance(refusal, str) and refusal.strip():
        return ChatAnswer(refusal.strip(), refused=True)
    if not text and getattr(message, "tool_calls", None):
        raise EngineError(f"{place}: the model called a tool in place of an answer")
    return ChatAnswer(without_thoughts(text), why == "length")


def _text(content: Any) -> str:
    """Returns the text of a message's content: text, or a list of parts of which some are text."""
    if isinstance(content, list):
        parts = [part if isinstance(part, dict) else {"text": part} for part in content]
        content = "".join(text for part in parts if isinstance(text := part.get("text"), str))
    return content.strip() if isinstance(content, str) else ""
