"""The learning curve from progress lines and round records: names, interruptions, several updates a round, figures."""

from __future__ import annotations

import pytest

from actors.adapter_proof import Swap, swaps_path
from launch.chatbot.config import ChatbotEvaluationConfig, ChatbotRunConfig
from launch.chatbot.learning_curve import LearningCurve, each_update, learner_metrics
from launch.chatbot.phases import Stage, progress_path
from launch.chatbot.records import RoundRecords, RoundSeconds
from launch.chatbot.run import ChatbotRun, RolloutHosts
from launch.run.config.run import RunConfig
from launch.run.config.speaker import SpeakerConfig
from launch.run.directory import RunDirectory
from launch.run.settings import to_dict
from launch.tracking.config import TrackingConfig
from launch.tracking.tracker import Tracker, read_metrics
from rlenv.core.progress import Progress
from rlenv.core.types import Adapter, Message
from rlenv.env.collect import Collected, Episode
from rlenv.evaluation.chatbot_rl.figures import figures_of
from rlenv.evaluation.chatbot_rl.records import EvaluationEpisode
from trainers.chatbot_rl.config import ChatbotRlConfig

CONFIG = ChatbotRunConfig(
    run="r",
    rewards={"issue_free": 1},
    chatbot=SpeakerConfig(engine="simulator", adapter="trained"),
    rl=ChatbotRlConfig(num_rounds=3, num_groups=2, group_size=4, batch_size=4, gradient_accumulation=1),
    evaluation=ChatbotEvaluationConfig(every=2),
    settings=RunConfig(),
    alternate_every=2,
)
STAGES = (Stage(1, 0, 2), Stage(2, 2, 1))


def chatbot_run(directory: RunDirectory) -> ChatbotRun:
    return ChatbotRun(CONFIG, directory, RolloutHosts(directory))


def figures(reward: float):
    messages = (
        Message(role="user", content="I feel low."),
        Message(role="assistant", content="Why is that?", issues=()),
    )
    return figures_of(
        [EvaluationEpisode(context_id="c", counterpart="base", seed=1, messages=messages, rewards=(reward,))]
    )


@pytest.fixture
def run(tmp_path) -> RunDirectory:
    """Three rounds of two updates, the first stage's second round made twice, as after an interruption."""
    run = RunDirectory(tmp_path)
    run.open(to_dict(CONFIG))
    records = RoundRecords(run.path("rounds"))
    for number in range(3):
        held_out = {"it1": figures(-2.0)} if number % 2 == 0 else {}
        adapter = Adapter(name="a", path="p", digest=f"{number}" * 64)
        records.write(number, adapter, [], figures(float(number)), held_out, RoundSeconds(rollouts=2, measuring=1))
    for stage, steps in zip(STAGES, ((1, 2, 3, 3, 4), (1, 2)), strict=True):
        progress = Progress(str(progress_path(run, stage)), "rl")
        for place, step in enumerate(steps):
            round_only = {"rollouts/trained_tokens": 40.0, "sampling/kl": 0.5} if step % 2 else {}
            progress.write(step, 4, loss=float(place), step_time=3.0, **{"clip_ratio/low_mean": 0.0}, **round_only)
    return run


def test_the_curve_has_one_point_per_round_over_all_stages(run, tmp_path) -> None:
    points, pictures = LearningCurve(chatbot_run(run), Tracker(run.root, TrackingConfig(), "t", {})).write()
    assert [(p.round, p.num_updates, p.train.reward.value) for p in points] == [(0, 0, 0.0), (1, 2, 1.0), (2, 4, 2.0)]
    assert [p.loss for p in points] == [0.5, 3.5, 0.5]  # of update 3, the second attempt's
    assert [p.update_seconds for p in points] == [6.0] * 3 and [p.trained_tokens for p in points] == [40] * 3
    assert points[0].held_out["it1"].reward.value == -2.0 and not points[1].held_out
    assert points[0].sampler_kl == 0.5
    assert [p.path.name for p in pictures] == [
        "learning_curve.png", "learning_replies.png", "learning_learner.png", "learning_cost.png",
    ] and all(p.path.is_file() for p in pictures)  # fmt: skip


def test_an_update_is_one_row_of_metrics_however_often_it_is_logged(run) -> None:
    tracker = Tracker(run.root, TrackingConfig(), "t", {})
    curve = LearningCurve(chatbot_run(run), tracker)
    curve.follow(STAGES[0])([{"step": 1, "total": 4, "loss": 0.0, "rollouts/seconds": 1.0}])
    for stage in STAGES:
        curve.finish(stage)
        curve.finish(stage)
    rows = read_metrics(run.path("metrics.jsonl"))
    assert [(row["step"], row["version"]) for row in rows] == [(i, "rl1") for i in range(1, 5)] + [
        (5, "rl2"),
        (6, "rl2"),
    ]
    assert rows[0]["seconds/rollouts"] == 1.0 and rows[0]["training/reward"] == 0.0
    assert rows[4]["held_out_it1/reward"] == -2.0 and "training/reward" not in rows[1]


def test_the_first_update_of_a_round_has_what_the_swap_to_its_adapter_told(run) -> None:
    digest = next(figures.adapter for figures, _ in RoundRecords(run.path("rounds")).figures() if figures.round == 1)
    swaps = swaps_path(run.path("logs"), "simulator")
    swaps.parent.mkdir()
    for number, gap in enumerate((0.001, 0.002)):  # two engines
        swap = Swap(engine=f"simulator-{number}", adapter="x", digest=digest, seconds=2.0, places=12, gap_mean=gap)
        with open(swaps, "a") as file:
            file.write(swap.model_dump_json() + "\n")
    logged: dict[int, dict[str, float]] = {}
    tracker = Tracker(run.root, TrackingConfig(), "t", {})
    tracker.log = lambda step, version, row, of_attempt: logged.update({step: of_attempt})  # type: ignore[method-assign]
    LearningCurve(chatbot_run(run), tracker).finish(STAGES[0])
    assert logged == {1: {}, 2: {}, 3: {"swap/seconds_max": 2.0, "swap/gap_mean": 0.002}, 4: {}}


def test_metrics_are_named_phase_and_quantity() -> None:
    line = {
        "step": 3,
        "phase": "rl",
        "loss": 0.5,
        "step_time": 2.0,
        "kl": 0.1,
        "rewards/x/mean": 1.0,
        "sampling/kl": 0.2,
    }
    assert learner_metrics(line) == {"rl/loss": 0.5, "seconds/update": 2.0, "rl/kl": 0.1, "sampler/kl": 0.2}
    assert [line["loss"] for line in each_update([{"step": 2, "loss": 1}, {"step": 1, "loss": 2}, {"step": 2, "loss": 3}])] == [2, 3]  # fmt: skip  # noqa: E501


def test_a_round_is_reused_for_the_same_adapter_and_replaced_for_another(tmp_path) -> None:
    records, one, two = RoundRecords(tmp_path), *(Adapter(name="a", path="p", digest=d * 64) for d in "ab")
    episode = Episode(episode_id="0:c#0", context_id="c", counterpart="base", seed=3)
    result = Collected(episode=episode, failure="engine", reason="it died")
    assert records.read(0, one) is None
    records.write(0, one, [result], figures(0), {}, RoundSeconds(rollouts=1, measuring=0))
    assert records.read(0, one) == [result] and records.read(0, two) is None
    records.write(0, two, [], figures(1), {}, RoundSeconds(rollouts=1, measuring=0))
    assert records.read(0, one) is None and [f.adapter for f, _ in records.figures()] == ["b" * 64]


def test_a_line_that_a_killed_worker_left_unfinished_is_removed(tmp_path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"step": 1}\n{"ste')
    Progress(str(path), "rl").write(2, 2)
    assert [line.split(",")[0] for line in path.read_text().splitlines()] == ['{"step": 1}', '{"phase": "rl"']
