"""Conversations before and after, of the same context, user and seed, to be read side by side.

Drawn under a seed, so that nobody chose them; with them, and named as such, the largest gain and the largest loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from launch.reports.transcripts import Line
from rlenv.core.seeds import derive_seed
from rlenv.evaluation.chatbot_rl.figures import ending_of, replies
from rlenv.evaluation.chatbot_rl.records import EvaluationEpisode, EvaluationSet


@dataclass(frozen=True)
class Side:
    """One of the two conversations."""

    lines: tuple[Line, ...]
    num_issues: int
    """Chatbot messages with an issue."""
    ending: str


@dataclass(frozen=True)
class PairedTranscript:
    """The same conversation with the chatbot before and after its training."""

    users: str
    why: str
    """drawn, largest gain or largest loss."""
    context_id: str
    counterpart: str
    seed: int
    before: Side
    after: Side


def paired_transcripts(sets: Sequence[EvaluationSet], number: int, seed: int = 0) -> list[PairedTranscript]:
    """Returns ``number`` pairs of every group of users, and the pairs in which issues fell and rose the most."""
    made = []
    for one in sets:
        after = {held.key: held for held in one.after}
        pairs = [(held, after[held.key]) for held in one.before if held.key in after]
        pairs = [(b, a) for b, a in pairs if b.failure is None and a.failure is None]
        order = sorted(pairs, key=lambda pair: derive_seed(seed, "paired transcript", *map(str, pair[0].key)))
        chosen = [("drawn", pair) for pair in order[:number]]
        ranked = sorted(order[number:], key=_change)
        if ranked and _change(ranked[0]) < 0:
            chosen.append(("largest gain", ranked[0]))
        if ranked and _change(ranked[-1]) > 0:
            chosen.append(("largest loss", ranked[-1]))
        made += [
            PairedTranscript(one.users.name, why, b.context_id, b.counterpart, b.seed, _side(b), _side(a))
            for why, (b, a) in chosen
        ]
    return made


def _change(pair: tuple[EvaluationEpisode, EvaluationEpisode]) -> int:
    return _num_issues(pair[1]) - _num_issues(pair[0])


def _num_issues(held: EvaluationEpisode) -> int:
    return sum(bool(message.issues) for message in replies(held))


def _side(held: EvaluationEpisode) -> Side:
    lines = tuple(
        Line(
            role="user" if m.role == "user" else "chatbot",
            # HTML holds no lone surrogates, which sampled messages may
            text=m.content.encode("utf-8", "replace").decode(),
            reward=None,
            labels=(m.actions if m.role == "user" else m.issues) or (),
        )
        for m in held.messages
    )
    return Side(lines, _num_issues(held), f"ended by {ending_of(held)}")
