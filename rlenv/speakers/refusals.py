"""What a server's refusal of a request is about: an option, the system message, or the length of the chat."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import openai

WRONG_VALUE = re.compile(
    r"must be|should be|between|greater than|less than|at (most|least)|too (large|high|low|small|long|short)|\brange\b",
    re.IGNORECASE,
)
"""Words of a server that knows an option and refuses its value."""
NO_SYSTEM = re.compile(
    r"system[ _'\"]*(role|message|prompt|instruction)|roles?\b.{0,80}\bsystem\b|developer instruction", re.IGNORECASE
)
OVERLONG = re.compile(
    r"context[ _](length|window|size)|maximum context|(prompt|input|request) is too long|too many (input )?tokens",
    re.IGNORECASE,
)


def is_overlong(error: openai.APIStatusError) -> bool:
    """Returns whether the chat is longer than the model's context."""
    return error.code == "context_length_exceeded" or OVERLONG.search(error.message) is not None


def refuses_system(error: openai.APIStatusError) -> bool:
    """Returns whether the model takes no system message."""
    return NO_SYSTEM.search(_said(error)) is not None


def unknown_option(error: openai.APIStatusError, options: Mapping[str, Any]) -> str | None:
    """Returns the option that the model does not know; None if it knows all of them, or refuses only a value."""
    named = refused_options(error, options)
    if not named or (named[-1] != "response_format" and WRONG_VALUE.search(_said(error))):
        return None
    return named[-1]


def refused_options(error: openai.APIStatusError, options: Mapping[str, Any]) -> list[str]:
    """Returns the options that the refusal is about, in their order."""
    if error.param in options:
        return [str(error.param)]
    words = {name: name for name in options} | {"response_format": "response_format|json_schema|structured output"}
    return [name for name in options if re.search(rf"\b({words[name]})\b", _said(error), re.IGNORECASE)]


def _said(error: openai.APIStatusError) -> str:
    return f"{error.param} {error.code} {error.message}"
