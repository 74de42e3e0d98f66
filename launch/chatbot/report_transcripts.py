"""Conversations before and after training, with the same context, user and seed, side by side.

Most pairs are drawn under a seed, not selected. The largest gain and the largest loss are added and named as such.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from launch.reports.transcripts import Line
from rlenv.core.seeds import derive_seed
from rlenv.evaluation.chatbot_rl.figures import ending_of, replies
from rlenv.evaluation.chatbot_rl.records import EvaluationEpisode, EvaluationSet


@dataclass(frozen=True)
class Transcript:
    """One of the two conversations of a pair."""

    lines: tuple[Line, ...]
    num_issues: int
    """Number of chatbot messages with an issue."""
    ending: str


@dataclass(frozen=True)
class PairedTranscript:
    """The same conversation with the chatbot before and after its training."""

    users: str
    why: str
    """Why it is shown: drawn, largest gain or largest loss."""
    context_id: str
    counterpart: str
    seed: int
    before: Transcript
    after: Transcript


def paired_transcripts(sets: Sequence[EvaluationSet], number: int, seed: int = 0) -> list[PairedTranscript]:
    """Returns ``number`` pairs per group of users, and the pairs whose number of issues fell and rose the most."""
    transcripts = []
    for group in sets:
        after = {episode.key: episode for episode in group.after}
        pairs = [(episode, after[episode.key]) for episode in group.before if episode.key in after]
        pairs = [(b, a) for b, a in pairs if b.failure is None and a.failure is None]
        order = sorted(pairs, key=lambda pair: derive_seed(seed, "paired transcript", *map(str, pair[0].key)))
        chosen = [("drawn", pair) for pair in order[:number]]
        ranked = sorted(order[number:], key=_change)
        if ranked and _change(ranked[0]) < 0:
            chosen.append(("largest gain", ranked[0]))
        if ranked and _change(ranked[-1]) > 0:
            chosen.append(("largest loss", ranked[-1]))
        transcripts += [
            PairedTranscript(group.users.name, why, b.context_id, b.counterpart, b.seed, _transcript(b), _transcript(a))
            for why, (b, a) in chosen
        ]
    return transcripts


def _change(pair: tuple[EvaluationEpisode, EvaluationEpisode]) -> int:
    return _num_issues(pair[1]) - _num_issues(pair[0])


def _num_issues(episode: EvaluationEpisode) -> int:
    return sum(bool(message.issues) for message in replies(episode))


def _transcript(episode: EvaluationEpisode) -> Transcript:
    lines = tuple(
        Line(
            role="user" if m.role == "user" else "chatbot",
            # HTML cannot hold the lone surrogates that sampled messages may have
            text=m.content.encode("utf-8", "replace").decode(),
            reward=None,
            labels=(m.actions if m.role == "user" else m.issues) or (),
        )
        for m in episode.messages
    )
    return Transcript(lines, _num_issues(episode), f"ended by {ending_of(episode)}")
