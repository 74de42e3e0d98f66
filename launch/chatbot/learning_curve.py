"""The learning curve of a run that trains a chatbot: metrics a row an update, curve points a round, figures.

Made of what is on disk, the learner's progress lines (``logs/rl1.jsonl``) and the rounds' records, so a run that was
interrupted leaves the same curve. ``metrics.jsonl`` and W&B get the rows while the learner works.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from launch.chatbot.curve_figures import draw_curve
from launch.chatbot.phases import Stage, progress_path, stages
from launch.chatbot.records import RoundFigures, RoundRecords, RoundSeconds
from launch.chatbot.run import ChatbotRun
from launch.reports.figures import Picture
from launch.run.tracking import Tracker
from rlenv.core.files import to_line, write_atomic
from rlenv.core.progress import Line, read_progress
from rlenv.evaluation.chatbot_rl.records import CurvePoint, UserFigures

NAMES = {
    "sampling/sampling_logp_difference/mean": "sampler/gap_mean",
    "sampling/sampling_logp_difference/max": "sampler/gap_max",
    "sampling/kl": "sampler/kl",
    "rollouts/trained_tokens": "tokens/trained",
    "rollouts/read_tokens": "tokens/read",
    "rollouts/seconds": "seconds/rollouts",
    "step_time": "seconds/update",
}
"""Of the learner's quantities, the names that they have in ``metrics.jsonl``."""
LEFT_OUT = {"step", "total", "time", "phase", "num_tokens", "epoch"}
PREFIXES_LEFT_OUT = ("rewards/", "completions/", "sampling/importance")
"""Quantities that say nothing, or nothing that others do not."""
Rounds = Mapping[int, tuple[RoundFigures, RoundSeconds]]


class LearningCurve:
    """The curve of one run, while it runs and afterwards.

    Args:
        run: whose curve it is.
        tracker: is given each update's row once.
    """

    def __init__(self, run: ChatbotRun, tracker: Tracker) -> None:
        config, self._directory = run.config, run.directory
        self._updates = config.rl.updates_per_round(config.settings.train.num_workers)
        self._stages = stages(config.rl.num_rounds, config.alternate_every)
        self._tracker = tracker
        self._records = RoundRecords(run.directory.path("rounds"))
        self._told = 0

    def follow(self, stage: Stage) -> Callable[[list[Line]], None]:
        """Returns what takes a stage's progress lines as they come."""
        return lambda lines: self._tell(stage, lines)

    def finish(self, stage: Stage) -> None:
        """Takes what was not told yet of a stage that is over."""
        self._tell(stage, read_progress(progress_path(self._directory, stage)))

    def _tell(self, stage: Stage, lines: Sequence[Line]) -> None:
        before = stage.first_round * self._updates
        new = [line for line in each_update(lines) if before + int(line["step"]) > self._told]
        if not new:
            return
        rounds = self._rounds()
        for line in new:
            update = int(line["step"])
            row = learner_metrics(line)
            number, place = divmod(update - 1, self._updates)
            if place == 0 and (found := rounds.get(stage.first_round + number)):
                row |= round_metrics(*found)
            self._told = before + update
            self._tracker.log(self._told, stage.version, row)

    def _rounds(self) -> Rounds:
        return {figures.round: (figures, seconds) for figures, seconds in self._records.figures()}

    def points(self) -> list[CurvePoint]:
        """Returns the curve, a point a round."""
        rounds = self._rounds()
        points = []
        for stage in self._stages:
            lines = each_update(read_progress(progress_path(self._directory, stage)))
            for number in range(stage.num_rounds):
                of_round = lines[number * self._updates : (number + 1) * self._updates]
                whole = stage.first_round + number
                if len(of_round) == self._updates and whole in rounds:
                    points.append(curve_point(whole, whole * self._updates, of_round, *rounds[whole]))
        return points

    def write(self) -> tuple[list[CurvePoint], list[Picture]]:
        """Writes ``curve.jsonl`` and ``figures/``; returns the points and the figures."""
        points = self.points()
        write_atomic(self._directory.path("curve.jsonl"), (to_line(point.model_dump(mode="json")) for point in points))
        return points, draw_curve(points, self._directory.path("figures"))


def each_update(lines: Sequence[Line]) -> list[Line]:
    """Returns one line an update, in order; of an update that was made again after an interruption, the last."""
    last = {int(line["step"]): line for line in lines}
    return [last[step] for step in sorted(last)]


def learner_metrics(line: Line) -> dict[str, float]:
    """Returns an update's quantities as ``phase/quantity``."""
    return {
        NAMES.get(name, name if "/" in name else f"rl/{name}"): float(value)
        for name, value in line.items()
        if name not in LEFT_OUT and not name.startswith(PREFIXES_LEFT_OUT)
    }


def round_metrics(figures: RoundFigures, seconds: RoundSeconds) -> dict[str, float]:
    """Returns what was seen of the adapter that held a round as ``phase/quantity``."""
    row = {"tokens/sampled": float(figures.sampled_tokens), "tokens/heard": float(figures.heard_tokens)}
    row["seconds/measuring"] = seconds.measuring
    for phase, seen in (("training", figures.train), *((f"held_out_{n}", f) for n, f in figures.held_out.items())):
        row |= {f"{phase}/{name}": value for name, value in user_metrics(seen).items()}
    return row


def user_metrics(seen: UserFigures) -> dict[str, float]:
    """Returns the figures of one group of users, issue categories included."""
    found = {
        "reward": seen.reward,
        "issue_rate": seen.issue_rate,
        "turns": seen.turns,
        "reply_words": seen.reply_words,
        "distinct_2": seen.distinct_2,
        "sameness": seen.sameness,
        **{f"issue_{name}": value for name, value in seen.issues.items()},
    }
    return {name: measured.value for name, measured in found.items() if measured.value is not None}


def curve_point(
    number: int, num_updates: int, lines: Sequence[Line], figures: RoundFigures, seconds: RoundSeconds
) -> CurvePoint:
    """Returns the point of one round.

    Args:
        number: the round, over the whole run.
        num_updates: before it.
        lines: the learner's, one an update of this round; what concerns the round stands in the first.
        figures: the round's.
        seconds: the round's.
    """
    first = lines[0]

    def mean(name: str) -> float | None:
        values = [float(line[name]) for line in lines if name in line]
        return sum(values) / len(values) if values else None

    return CurvePoint(
        round=number,
        num_updates=num_updates,
        adapter=figures.adapter,
        train=figures.train,
        held_out=figures.held_out,
        loss=mean("loss"),
        grad_norm=mean("grad_norm"),
        kl=mean("kl"),
        entropy=mean("entropy"),
        sampler_gap_mean=mean("sampling/sampling_logp_difference/mean"),
        sampler_gap_max=mean("sampling/sampling_logp_difference/max"),
        sampler_kl=mean("sampling/kl"),
        staleness_mean=float(first.get("rollouts/staleness_mean", 0.0)),
        staleness_max=float(first.get("rollouts/staleness_max", 0.0)),
        num_stale=int(float(first.get("rollouts/stale", 0.0))),
        num_masked=int(sum(float(first.get(f"rollouts/{k}_turns", 0.0)) for k in ("masked", "weighted"))),
        trained_tokens=int(float(first.get("rollouts/trained_tokens", 0.0))),
        read_tokens=int(float(first.get("rollouts/read_tokens", 0.0))),
        rollout_seconds=seconds.rollouts,
        evaluation_seconds=seconds.measuring,
        update_seconds=sum(float(line.get("step_time", 0.0)) for line in lines),
    )
