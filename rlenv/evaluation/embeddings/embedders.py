"""Embeds sessions: the text of a session, its chunks, and the cache of vectors (Figure 3, Appendix B.1).

The first 50 messages of a session are embedded. If they exceed an embedder's limit, they are embedded in chunks of
whole messages where possible, and the session's vector is the mean of its chunks' vectors weighted by tokens, so
nothing is cut off. Independent of the use of the vectors; the models are in ``models``.
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
            OverlongError: a text exceeds the model's limit.
        """
        ...


def session_lines(session: Session, max_messages: int = MAX_MESSAGES) -> list[str]:
    """Returns the text of a session to embed, one line per message with the speaker; blank messages are left out.

    >>> session_lines(Session.model_validate({"session_id": "1", "messages": [{"role": "user", "content": " Hi "}]}))
    ['user: Hi']
    """
    said = [m for m in session.messages[:max_messages] if m.content.strip()]
    return [f"{SEAT_OF_ROLE[m.role]}: {encodable(m.content).strip()}" for m in said]


def chunks(lines: Sequence[str], max_tokens: int, count_tokens: CountTokens) -> list[tuple[str, int]]:
    """Returns the lines joined into as few texts as fit the limit, in order, each with its number of tokens.

    A line that is too long is split between words, a word that is too long between characters.

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
    """A cache of session vectors in a folder, by a hash of the embedder's name and the session's text."""

    def __init__(self, folder: str | Path) -> None:
        self._folder = Path(folder)

    def get(self, embedder: str, lines: Sequence[str]) -> np.ndarray | None:
        """Returns the cached vector of a session's lines, or None."""
        try:
            return np.load(self._path(embedder, lines), allow_pickle=False)
        except (OSError, ValueError, EOFError):
            return None  # not there, or damaged: embedded again

    def keep(self, embedder: str, lines: Sequence[str], vector: np.ndarray) -> None:
        """Stores a vector."""
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
    """Returns a vector [d] for each session, or None for a session without text. Equal sessions are embedded once.

    Args:
        embedder: the model.
        sessions: real or simulated sessions.
        cache: vectors of earlier calls; None caches nothing.
        max_messages: number of messages used, from the start of a session.
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
