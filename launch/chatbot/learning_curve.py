"""The learning curve of a chatbot's training: a row of metrics per update, a curve point per round, and figures.

It is made from files, the learner's progress lines (``logs/rl1.jsonl``) and the rounds' records, so an interrupted run
has the same curve. ``metrics.jsonl`` and W&B get the rows during training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from actors.adapter_proof import read_swaps, swap_metrics
from launch.chatbot.curve_figures import draw_curve
from launch.chatbot.phases import Stage, progress_path, stages
from launch.chatbot.records import RoundFigures, RoundRecords, RoundSeconds
from launch.chatbot.run import ChatbotRun
from launch.reports.figures import Picture
from launch.tracking.tracker import Tracker
from rlenv.core.files import to_line, write_atomic
from rlenv.core.progress import PLACE, Line, read_progress
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
"""The learner's quantities that have another name in ``metrics.jsonl``, and that name."""
LEFT_OUT = PLACE | {"num_tokens", "epoch"}
PREFIXES_LEFT_OUT = ("rewards/", "completions/", "sampling/importance")
"""Quantities that are not logged: they are redundant or carry no information."""
Rounds = Mapping[int, tuple[RoundFigures, RoundSeconds]]


class LearningCurve:
    """The learning curve of one run, during training and afterwards.

    Args:
        run: the run.
        tracker: receives the row of each update once.
    """

    def __init__(self, run: ChatbotRun, tracker: Tracker) -> None:
        config, self._directory = run.config, run.directory
        self._updates = config.rl.updates_per_round(config.settings.train.num_workers)
        self._stages = stages(config.rl.num_rounds, config.alternate_every)
        self._tracker = tracker
        self._records = RoundRecords(run.directory.path("rounds"))
        self._engine = config.chatbot.engine
        self._num_logged = 0

    def follow(self, stage: Stage) -> Callable[[list[Line]], None]:
        """Returns a function that logs the new updates among a stage's progress lines."""
        return lambda lines: self._log(stage, lines)

    def finish(self, stage: Stage) -> None:
        """Logs the updates of a finished stage that are not logged yet."""
        self._log(stage, read_progress(progress_path(self._directory, stage)))

    def _log(self, stage: Stage, lines: Sequence[Line]) -> None:
        num_before = stage.first_round * self._updates
        new = [line for line in each_update(lines) if num_before + int(line["step"]) > self._num_logged]
        if not new:
            return
        rounds = self._rounds()
        for line in new:
            update = int(line["step"])
            row, of_attempt = learner_metrics(line), {}
            number, update_in_round = divmod(update - 1, self._updates)
            if update_in_round == 0 and (found := rounds.get(stage.first_round + number)):
                row |= round_metrics(*found)
                of_attempt = self._swap(found[0].adapter)
            self._num_logged = num_before + update
            self._tracker.log(self._num_logged, stage.version, row, of_attempt=of_attempt)

    def _swap(self, digest: str) -> dict[str, float]:
        swaps = read_swaps(self._directory.path("logs"), self._engine)
        return swap_metrics([swap for swap in swaps if swap.digest == digest])

    def _rounds(self) -> Rounds:
        return {figures.round: (figures, seconds) for figures, seconds in self._records.figures()}

    def points(self) -> list[CurvePoint]:
        """Returns the curve, one point per round."""
        rounds = self._rounds()
        points = []
        for stage in self._stages:
            lines = each_update(read_progress(progress_path(self._directory, stage)))
            for number in range(stage.num_rounds):
                round_lines = lines[number * self._updates : (number + 1) * self._updates]
                run_round = stage.first_round + number
                if len(round_lines) == self._updates and run_round in rounds:
                    points.append(curve_point(run_round, run_round * self._updates, round_lines, *rounds[run_round]))
        return points

    def write(self) -> tuple[list[CurvePoint], list[Picture]]:
        """Writes ``curve.jsonl`` and ``figures/``; returns the points and the figures."""
        points = self.points()
        write_atomic(self._directory.path("curve.jsonl"), (to_line(point.model_dump(mode="json")) for point in points))
        return points, draw_curve(points, self._directory.path("figures"))


def each_update(lines: Sequence[Line]) -> list[Line]:
    """Returns one line per update, in order. An update repeated after an interruption counts with its last line."""
    last = {int(line["step"]): line for line in lines}
    return [last[step] for step in sorted(last)]


def learner_metrics(line: Line) -> dict[str, float]:
    """Returns the quantities of an update, named ``phase/quantity``."""
    return {
        NAMES.get(name, name if "/" in name else f"rl/{name}"): float(value)
        for name, value in line.items()
        if name not in LEFT_OUT and not name.startswith(PREFIXES_LEFT_OUT)
    }


def round_metrics(figures: RoundFigures, seconds: RoundSeconds) -> dict[str, float]:
    """Returns the figures of a round's conversations, named ``phase/quantity``."""
    row = {"tokens/sampled": float(figures.sampled_tokens), "tokens/heard": float(figures.heard_tokens)}
    row["seconds/measuring"] = seconds.measuring
    groups = (("training", figures.train), *((f"held_out_{n}", f) for n, f in figures.held_out.items()))
    for phase, group in groups:
        row |= {f"{phase}/{name}": value for name, value in user_metrics(group).items()}
    return row


def user_metrics(figures: UserFigures) -> dict[str, float]:
    """Returns the figures of one group of users, issue categories included."""
    measured = {
        "reward": figures.reward,
        "issue_rate": figures.issue_rate,
        "turns": figures.turns,
        "reply_words": figures.reply_words,
        "distinct_2": figures.distinct_2,
        "sameness": figures.sameness,
        **{f"issue_{name}": value for name, value in figures.issues.items()},
    }
    return {name: m.value for name, m in measured.items() if m.value is not None}


def curve_point(
    number: int, num_updates: int, lines: Sequence[Line], figures: RoundFigures, seconds: RoundSeconds
) -> CurvePoint:
    """Returns the curve point of one round.

    Args:
        number: the round's number, counted over the whole run.
        num_updates: number of updates before it.
        lines: the learner's progress lines, one per update of this round; the first has the round's own quantities.
        figures: the figures of the round's conversations.
        seconds: the wall times of the round's conversations.
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
