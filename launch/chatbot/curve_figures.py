"""The learning curve of a chatbot's training as PNG files. Bars are standard errors over contexts.

Nothing here computes: what is drawn stands in ``curve.jsonl``. A figure without data is not drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from launch.reports.figures import Picture, look, new_figure, save
from rlenv.evaluation.chatbot_rl.records import CurvePoint, Measured

TRAINING = "training users"


def draw_curve(points: Sequence[CurvePoint], folder: Path) -> list[Picture]:
    """Returns the figures that there is data for, written to ``folder``."""
    if not points:
        return []
    folder.mkdir(exist_ok=True)
    plans = (
        ("learning_curve", "Reward and issue rate by round", _outcomes(points)),
        ("learning_replies", "Replies and conversations by round", _replies(points)),
        ("learning_learner", "KL to the start, and sampler against learner", _learner(points)),
        ("learning_cost", "Seconds and tokens of a round", _cost(points)),
    )
    return [p for name, title, figure in plans if (p := save(figure, folder, name, title))]


def _outcomes(points: Sequence[CurvePoint]) -> Figure:
    figure, (left, right) = new_figure(9.6, 3.6, 1, 2)
    _by_users(left, points, "reward", "reward of a conversation")
    _by_users(right, points, "issue_rate", "issue rate of messages")
    right.set_ylim(bottom=0)
    left.legend(fontsize=8, frameon=False)
    return figure


def _replies(points: Sequence[CurvePoint]) -> Figure:
    figure, axes = new_figure(9.6, 6.4, 2, 2)
    for ax, name, label in zip(
        axes,
        ("reply_words", "turns", "distinct_2", "sameness"),
        ("words of a reply", "user messages of a conversation", "distinct word pairs", "word pairs said to others too"),
        strict=True,
    ):
        _by_users(ax, points, name, label)
    axes[0].legend(fontsize=8, frameon=False)
    return figure


def _learner(points: Sequence[CurvePoint]) -> Figure:
    figure, axes = new_figure(9.6, 3.6, 1, 3)
    for ax, name, label in zip(
        axes,
        ("kl", "entropy", "sampler_gap_mean"),
        ("KL to the start", "entropy of a token", "|learner - sampler| of log-probs"),
        strict=True,
    ):
        there = [(p.round, value) for p in points if (value := getattr(p, name)) is not None]
        ax.plot(*zip(*there, strict=True), **look(0), markersize=3) if there else None
        _label(ax, label)
    return figure


def _cost(points: Sequence[CurvePoint]) -> Figure:
    figure, (left, right) = new_figure(9.6, 3.6, 1, 2)
    rounds = [p.round for p in points]
    rollouts = [p.rollout_seconds for p in points]
    learner = [max(0.0, p.update_seconds - p.rollout_seconds - p.evaluation_seconds) for p in points]
    left.stackplot(rounds, rollouts, learner, labels=("conversations", "updates"), colors=("#56b4e9", "#e69f00"))
    _label(left, "seconds")
    left.legend(fontsize=8, frameon=False)
    for index, (name, label) in enumerate((("read_tokens", "read by the learner"), ("trained_tokens", "learnt from"))):
        right.plot(rounds, [getattr(p, name) for p in points], **look(index), markersize=3, label=label)
    _label(right, "tokens")
    right.set_ylim(bottom=0)
    right.legend(fontsize=8, frameon=False)
    return figure


def _by_users(ax: Axes, points: Sequence[CurvePoint], name: str, label: str) -> None:
    """Draws one figure of every group of users."""
    others = sorted({other for point in points for other in point.held_out})
    for index, users in enumerate((TRAINING, *others)):
        seen = [(p.round, p.train if users == TRAINING else p.held_out.get(users)) for p in points]
        there: list[tuple[int, Measured]] = [(r, getattr(f, name)) for r, f in seen if f is not None]
        there = [(number, found) for number, found in there if found.value is not None]
        if there:
            ax.errorbar(
                [number for number, _ in there],
                [found.value or 0.0 for _, found in there],
                yerr=[found.standard_error or 0.0 for _, found in there],
                **look(index),
                markersize=3,
                linewidth=1,
                elinewidth=0.6,
                label=users,
            )
    _label(ax, label)


def _label(ax: Axes, label: str) -> None:
    ax.set_xlabel("round", fontsize=9)
    ax.set_ylabel(label, fontsize=9)
