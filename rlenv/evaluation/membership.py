"""Can a simulator be made to say its training users' own sentences? The longest verbatim run of words.

A run of words counts if it stands in the messages of one SFT user and of no other real user: what several people say
is no one's own. Words are those of ``rlenv.data.linguistics``. The same number for real people whom the simulator has
never seen says what is coincidence.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rlenv.core.types import Session
from rlenv.data.linguistics import words

SEED_WORDS = 4
"""Shorter runs are not looked for."""
LONG_RUN = 8
"""Words from which on a run is counted: longer than what people say by chance."""


@dataclass(frozen=True)
class LongestRun:
    """The longest run of words that a text shares with one training user alone."""

    num_words: int
    """0 if no run has ``SEED_WORDS`` words."""
    session_id: str | None = None
    """The session that says it."""
    user_id: str | None = None
    """The training user whose words they are."""
    num_sessions: int = 0
    """Sessions with a run of ``LONG_RUN`` words or more."""


class OwnWords:
    """The words of real users, by who says them.

    Args:
        trained_on: sessions that the simulator was trained on.
        others: other real sessions, whose users' words are nobody's own.
    """

    def __init__(self, trained_on: Iterable[Session], others: Iterable[Session]) -> None:
        self._texts: list[tuple[str, bool, list[str]]] = []
        self._places: dict[tuple[str, ...], list[tuple[int, int]]] = defaultdict(list)
        for sessions, is_own in ((trained_on, True), (others, False)):
            for session in sessions:
                for message in session.user_messages():
                    self._add(session.user_id, is_own, words(message))

    def _add(self, user: str, is_own: bool, text: list[str]) -> None:
        for start in range(len(text) - SEED_WORDS + 1):
            self._places[tuple(text[start : start + SEED_WORDS])].append((len(self._texts), start))
        self._texts.append((user, is_own, text))

    def longest_run(self, sessions: Sequence[Session]) -> LongestRun:
        """Returns the longest run of words that the sessions' users share with one training user alone.

        A session's own user is left out, so that real users can be looked up among themselves.
        """
        best, long = LongestRun(0), 0
        for session in sessions:
            length, user = max((self._longest(words(text), session.user_id) for text in session.user_messages()),
                               default=(0, ""))  # fmt: skip
            long += length >= LONG_RUN
            if length > best.num_words:
                best = LongestRun(length, session.session_id, user)
        return LongestRun(best.num_words, best.session_id, best.user_id, long)

    def _longest(self, text: Sequence[str], speaker: str) -> tuple[int, str]:
        best = (0, "")
        for start in range(len(text) - SEED_WORDS + 1):
            by_user = self._lengths_by_user(text, start)
            by_user.pop(speaker, None)
            for user, (length, is_own) in by_user.items():
                shared = max((n for other, (n, _) in by_user.items() if other != user), default=0)
                if is_own and length > max(shared, best[0]):
                    best = (length, user)
        return best

    def _lengths_by_user(self, text: Sequence[str], start: int) -> dict[str, tuple[int, bool]]:
        """Returns the longest run that begins at ``start`` by the user who says it, and whether it was trained on."""
        found: dict[str, tuple[int, bool]] = {}
        for index, place in self._places.get(tuple(text[start : start + SEED_WORDS]), ()):
            user, is_own, other = self._texts[index]
            length = SEED_WORDS
            most = min(len(text) - start, len(other) - place)
            while length < most and text[start + length] == other[place + length]:
                length += 1
            if length > found.get(user, (0, False))[0]:
                found[user] = (length, is_own)
        return found
