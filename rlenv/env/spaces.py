"""Gymnasium spaces for messages and conversations; ``gymnasium.spaces.Text`` accepts only letters and digits."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from rlenv.core.types import Message

_SAMPLES = (
    "Hello.",
    "What happened next?",
    "That sounds hard.",
    "How long has this been going on?",
    "What would help right now?",
    "Tell me more about that.",
)


class Utterances(gym.Space[str]):
    """Any text of up to ``max_length`` characters; samples are short chat messages."""

    def __init__(self, max_length: int = 100_000, seed: int | None = None) -> None:
        self.max_length = max_length
        super().__init__(shape=(), dtype=None, seed=seed)

    def sample(self, mask: Any | None = None, probability: Any | None = None) -> str:
        """Returns one message; masks are not supported and must be None."""
        if mask is not None or probability is not None:
            raise ValueError("Utterances.sample takes neither mask nor probability")
        return _SAMPLES[int(self.np_random.integers(len(_SAMPLES)))]

    def contains(self, x: Any) -> bool:
        """Returns whether ``x`` is text of at most ``max_length`` characters."""
        return isinstance(x, str) and len(x) <= self.max_length

    @property
    def is_np_flattenable(self) -> bool:
        """False: text has no fixed size."""
        return False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Utterances) and other.max_length == self.max_length

    def __repr__(self) -> str:
        return f"Utterances(max_length={self.max_length})"


class Messages(gym.Space[tuple[Message, ...]]):
    """Conversations: tuples of role-tagged messages."""

    def __init__(self, seed: int | None = None) -> None:
        super().__init__(shape=(), dtype=None, seed=seed)

    def sample(self, mask: Any | None = None, probability: Any | None = None) -> tuple[Message, ...]:
        """Returns a short conversation; masks are not supported and must be None."""
        if mask is not None or probability is not None:
            raise ValueError("Messages.sample takes neither mask nor probability")
        count = int(self.np_random.integers(0, 5))
        lines = self.np_random.integers(len(_SAMPLES), size=count)
        return tuple(
            Message(role="user" if i % 2 == 0 else "assistant", content=_SAMPLES[int(line)])
            for i, line in enumerate(lines)
        )

    def contains(self, x: Any) -> bool:
        """Returns whether ``x`` is a tuple of messages."""
        return isinstance(x, tuple) and all(isinstance(m, Message) for m in x)

    @property
    def is_np_flattenable(self) -> bool:
        """False: a conversation has no fixed size."""
        return False

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Messages)

    def __repr__(self) -> str:
        return "Messages()"
