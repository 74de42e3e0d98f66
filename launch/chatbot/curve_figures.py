"""Draws the learning curve of a chatbot's training as PNG files. Error bars are standard errors over contexts.

It only draws the numbers of ``curve.jsonl``. A figure without data is left out.
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
    """Returns the figures that have data, written to ``folder``."""
    if not points:
        return []
    folder.mkdir(exist_ok=True)
    plans = (
        ("learning_curve", "Reward and issue rate by round", _outcomes(points)),
        ("learning_replies", "Replies and conversations by round", _replies(points)),
        ("learning_learner", "KL to the starting policy, entropy, and sampler against learner", _learner(points)),
        ("learning_cost", "Seconds and tokens per round", _cost(points)),
    )
    return [p for name, title, figure in plans if (p := save(figure, folder, name, title))]


def _outcomes(points: Sequence[CurvePoint]) -> Figure:
    figure, (left, right) = new_figure(9.6, 3.6, 1, 2)
    _by_users(left, points, "reward", "reward per conversation")
    _by_users(right, points, "issue_rate", "issue rate")
    right.set_ylim(bottom=0)
    left.legend(fontsize=8, frameon=False)
    return figure


def _replies(points: Sequence[CurvePoint]) -> Figure:
    figure, axes = new_figure(9.6, 6.4, 2, 2)
    for ax, name, label in zip(
        axes,
        ("reply_words", "turns", "distinct_2", "sameness"),
        ("words per reply", "user messages per conversation", "distinct-2", "sameness across conversations"),
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
        ("KL to the starting policy", "entropy per token", "|learner - sampler| log-prob"),
        strict=True,
    ):
        known = [(p.round, value) for p in points if (value := getattr(p, name)) is not None]
        ax.plot(*zip(*known, strict=True), **look(0), markersize=3) if known else None
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
    for index, (name, label) in enumerate((("read_tokens", "read by the learner"), ("trained_tokens", "trained on"))):
        right.plot(rounds, [getattr(p, name) for p in points], **look(index), markersize=3, label=label)
    _label(right, "tokens")
    right.set_ylim(bottom=0)
    right.legend(fontsize=8, frameon=False)
    return figure


def _by_users(ax: Axes, points: Sequence[CurvePoint], name: str, label: str) -> None:
    """Draws one quantity, with a line per group of users."""
    others = sorted({other for point in points for other in point.held_out})
    for index, users in enumerate((TRAINING, *others)):
        figures = [(p.round, p.train if users == TRAINING else p.held_out.get(users)) for p in points]
        measured: list[tuple[int, Measured]] = [(r, getattr(f, name)) for r, f in figures if f is not None]
        measured = [(number, m) for number, m in measured if m.value is not None]
        if measured:
            ax.errorbar(
                [number for number, _ in measured],
                [m.value or 0.0 for _, m in measured],
                yerr=[m.standard_error or 0.0 for _, m in measured],
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
