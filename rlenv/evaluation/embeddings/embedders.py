"""From sessions to vectors: which text of a session is embedded, in which pieces, and by whom (Figure 3, B.1).

A session is its first 50 messages. Where they are more than an embedder reads at once, they are embedded in chunks that
hold whole messages as far as these fit, and the session is the mean of its chunks weighted by their tokens: nothing is
cut off at the embedder's limit. Knows nothing of what the vectors are for; the models are in ``models``.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from rlenv.core.files import write_atomic
from rlenv.core.types import SEAT_OF_ROLE, Session
from rlenv.prompting.cutting import CountTokens, encodable

MAX_MESSAGES = 50
"""Of a session, from its start (B.1)."""
SESSIONS_AT_ONCE = 32
"""Whose chunks an embedder is given together; what is embedded before a failure stays known."""


class Embedder(Protocol):
    """A model that turns texts into vectors of one length."""

    name: str
    """Model and address: part of the cache's key."""
    max_tokens: int
    """Of one text."""

    def count_tokens(self, text: str) -> int:
        """Returns how many tokens a text has."""
        ...

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Returns a vector for each text, [n, d]; n is 1 or more.

        Raises:
            ConfigError: nothing can be embedded as configured (a package or key is missing, an unknown model).
            EngineError: the model failed, after retries.
            OverlongError: a text is longer than the model takes.
        """
        ...


def session_lines(session: Session, max_messages: int = MAX_MESSAGES) -> list[str]:
    """Returns the text of a session that is embedded, a line a message, with who speaks; blank messages are left out.

    >>> session_lines(Session.model_validate({"session_id": "1", "messages": [{"role": "user", "content": " Hi "}]}))
    ['user: Hi']
    """
    said = [m for m in session.messages[:max_messages] if m.content.strip()]
    return [f"{SEAT_OF_ROLE[m.role]}: {encodable(m.content).strip()}" for m in said]


def chunks(lines: Sequence[str], max_tokens: int, count_tokens: CountTokens) -> list[tuple[str, int]]:
    """Returns the lines joined to as few texts as fit, in order, each with its number of tokens.

    A line that alone is too long is divided between words, a word between characters.

    >>> chunks(["a b c d", "e", "f g"], 3, lambda text: len(text.split()))
    [('a b c', 3), ('d e', 2), ('f g', 2)]
    """
    made: list[tuple[str, int]] = []
    text, size = "", 0
    for piece, tokens in _pieces(lines, max_tokens, count_tokens):
        if text and size + tokens > max_tokens:
            made.append((text, size))
            text, size = "", 0
        text, size = f"{text} {piece}" if text else piece, size + tokens
    return [*made, (text, size)] if text else made


def _pieces(lines: Sequence[str], max_tokens: int, count_tokens: CountTokens) -> Iterator[tuple[str, int]]:
    for line in lines:
        tokens = count_tokens(line)
        if tokens <= max_tokens:
            yield line, tokens
            continue
        for word in line.split():
            step = len(word) if count_tokens(word) <= max_tokens else max_tokens
            for part in (word[start : start + step] for start in range(0, len(word), step)):
                yield part, count_tokens(part)


class VectorCache:
    """Vectors of sessions in a folder, by a hash of the embedder's name and the session's text: none is made twice."""

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)

    def get(self, embedder: str, lines: Sequence[str]) -> np.ndarray | None:
        """Returns the vector of a session's lines, where it is known."""
        try:
            return np.load(self._path(embedder, lines), allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None  # not there, or damaged: embedded again

    def keep(self, embedder: str, lines: Sequence[str], vector: np.ndarray) -> None:
        """Remembers a vector."""
        data = io.BytesIO()
        np.save(data, vector, allow_pickle=False)
        write_atomic(self._path(embedder, lines), [data.getvalue()])

    def _path(self, embedder: str, lines: Sequence[str]) -> Path:
        key = hashlib.sha256("\n".join([embedder, *lines]).encode()).hexdigest()
        return self._folder / key[:2] / f"{key}.npy"


def embed_sessions(
    embedder: Embedder,
    sessions: Sequence[Session],
    cache: VectorCache | None = None,
    *,
    max_messages: int = MAX_MESSAGES,
    advance: Callable[[], None] = lambda: None,
) -> list[np.ndarray | None]:
    """Returns a vector [d] for each session, or None for one without a word. Equal sessions are embedded once.

    Args:
        embedder: who embeds.
        sessions: real or simulated.
        cache: of earlier calls; None remembers nothing.
        max_messages: of a session, from its start.
        advance: called once for each session.

    Raises:
        ConfigError, EngineError, OverlongError: see ``Embedder.embed``.
    """
    texts = [tuple(session_lines(s, max_messages)) for s in sessions]
    known: dict[tuple[str, ...], np.ndarray | None] = {(): None}
    if cache is not None:
        known |= {lines: v for lines in set(texts) if (v := cache.get(embedder.name, lines)) is not None}
    new = [lines for lines in dict.fromkeys(texts) if lines not in known]
    for _ in range(len(texts) - len(new)):
        advance()
    for start in range(0, len(new), SESSIONS_AT_ONCE):
        some = new[start : start + SESSIONS_AT_ONCE]
        parts = [chunks(lines, embedder.max_tokens, embedder.count_tokens) for lines in some]
        vectors = iter(embedder.embed([text for part in parts for text, _ in part]))
        for lines, part in zip(some, parts, strict=True):
            mean = np.average([next(vectors) for _ in part], axis=0, weights=[tokens for _, tokens in part])
            known[lines] = vector = mean.astype(np.float32)
            if cache is not None:
                cache.keep(embedder.name, lines, vector)
            advance()
    return [known[lines] for lines in texts]
