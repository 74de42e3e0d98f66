"""Chooses the conversations that a report shows, message by message with rewards (Eq. 4), actions and issues.

No other part of an evaluation has message text, and real users' messages are shown only on request.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from launch.reports.inputs import Inputs
from rlenv.core.log_odds import turn_rewards
from rlenv.core.seeds import derive_seed
from rlenv.core.types import Session
from rlenv.evaluation.subjects import REAL


@dataclass(frozen=True)
class Line:
    """One message."""

    role: str
    text: str
    reward: float | None
    """Reward of a user message, if a discriminator scored it."""
    labels: tuple[str, ...]
    """The user's actions or the chatbot's issues."""


@dataclass(frozen=True)
class Transcript:
    """One conversation."""

    simulator: str
    session_id: str
    chatbot: str
    scored_by: str | None
    """The simulator whose discriminator gave the rewards; None without rewards."""
    lines: tuple[Line, ...]

    @property
    def num_issues(self) -> int:
        """Number of chatbot messages with an issue."""
        return sum(bool(line.labels) for line in self.lines if line.role == "chatbot")


def choose_transcripts(inputs: Inputs, num_simulated: int, num_real: int, seed: int = 0) -> list[Transcript]:
    """Returns ``num_simulated`` conversations per simulator and ``num_real`` real ones, drawn under ``seed``.

    Conversations that a discriminator scored are preferred. Aggregates have no conversations of their own.
    """
    transcripts = []
    for simulator in inputs.simulators:
        if not simulator.members:
            scores = inputs.log_odds.get(simulator.name, {})
            chosen = _draw(simulator.sessions, scores, num_simulated, seed)
            transcripts += [_transcript(simulator.name, s, simulator.name, scores.get(s.session_id)) for s in chosen]
    judge = next(reversed(inputs.log_odds), None)
    scores = inputs.log_odds[judge] if judge is not None else {}
    chosen = _draw(inputs.real, scores, num_real, seed)
    return transcripts + [_transcript(REAL, s, judge, scores.get(s.session_id)) for s in chosen]


def _draw(sessions: Sequence[Session], scores: dict[str, tuple[float, ...]], number: int, seed: int) -> list[Session]:
    order = sorted(sessions, key=lambda s: (s.session_id not in scores, derive_seed(seed, "transcript", s.session_id)))
    return order[:number]


def _transcript(name: str, session: Session, judge: str | None, log_odds: tuple[float, ...] | None) -> Transcript:
    rewards = iter(turn_rewards(log_odds).tolist() if log_odds else [])
    lines = []
    for message in session.messages:
        is_user = message.role == "user"
        lines.append(
            Line(
                role="user" if is_user else "chatbot",
                # HTML cannot hold lone surrogates, which real messages may have
                text=message.content.encode("utf-8", "replace").decode(),
                reward=next(rewards, None) if is_user else None,
                labels=(message.actions if is_user else message.issues) or (),
            )
        )
    return Transcript(name, session.session_id, session.chatbot, judge if log_odds else None, tuple(lines))
