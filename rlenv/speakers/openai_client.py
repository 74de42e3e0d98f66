"""One way to an OpenAI-compatible endpoint: the client with its key, and its errors as ours, for who asks for text or
embeddings. openai is imported where a client is made.
"""

from __future__ import annotations

import os
from typing import Any

from rlenv.core.errors import ConfigError, EngineError, OverlongError, RlenvError


def connect(base_url: str, key_env: str | None, timeout_s: float, retries: int) -> Any:
    """Returns an ``openai.AsyncOpenAI``.

    Args:
        base_url: the API's root, for example ``http://localhost:8000/v1``.
        key_env: NAME of the environment variable that holds the key; None for a server without one.
        timeout_s: of one try.
        retries: of one request, where trying again can help (overload, time-outs, broken connections).

    Raises:
        ConfigError: the variable is not set.
    """
    from openai import AsyncOpenAI

    key = os.environ.get(key_env) if key_env else "none"
    if not key:
        raise ConfigError(f"the environment variable {key_env} is not set; it holds the key of {base_url}")
    return AsyncOpenAI(base_url=base_url, api_key=key, timeout=timeout_s, max_retries=retries)


def as_ours(error: Exception, place: str, key_env: str | None, retries: int) -> RlenvError:
    """Returns what an ``openai.APIError`` is to whoever runs rlenv; nothing of what was sent or came back is in it.

    Args:
        error: from the client.
        place: model and address.
        key_env: as in ``connect``.
        retries: as in ``connect``.
    """
    import openai

    if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError | openai.NotFoundError):
        key = f"the key in {key_env}" if key_env else "whether a key is needed (an option names its variable)"
        return ConfigError(f"{place}: status {error.status_code}; check the address, the model and {key}")
    if isinstance(error, openai.BadRequestError):
        if error.code == "context_length_exceeded" or "context length" in str(error):
            return OverlongError(f"{place}: a request is longer than the model takes")
        return EngineError(f"{place}: refused a request (status {error.status_code})")
    if isinstance(error, openai.APIStatusError):
        return EngineError(f"{place}: status {error.status_code} after {retries} retries")
    return EngineError(f"{place}: {type(error).__name__} after {retries} retries")
