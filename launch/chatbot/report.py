"""The report of a chatbot's training: the same evaluation episodes before and after, labelled by every judge.

VERSION/judged/*.jsonl.gz   the evaluation episodes with the held-out judge's labels
report/                     report.html, evaluation.json, tables (``launch.chatbot.report_page``)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from launch.chatbot.records import read_episodes, write_episodes
from launch.chatbot.report_page import ChatbotEvaluation, verdict, write_chatbot_report
from launch.chatbot.run import ChatbotRun, groups_of_users
from launch.reports.figures import Picture
from launch.run.progress import counting
from launch.serving.judges import What, serve_judge
from rlenv.core.aio import run as run_async
from rlenv.core.types import Annotation, Session
from rlenv.evaluation.chatbot_rl.records import CurvePoint, EvaluationEpisode, EvaluationSet, Users
from rlenv.judges.annotate import NamedJudge, judged


def rejudge(run: ChatbotRun, version: str) -> None:
    """Labels a version's evaluation episodes with the held-out judge; does nothing where none is configured."""
    judge, directory = run.config.evaluation.held_out_judge, run.directory
    if judge is None:
        return

    def make(folder: Path) -> None:
        folder.mkdir()
        with serve_judge(judge, directory.path("judge"), What.issues) as (served, _):
            for users, _ in groups_of_users(run.config):
                episodes = read_episodes(directory.path(f"{version}/measured/{users.name}.jsonl.gz"))
                title = f"{version}: {users.name} by {judge.judge}"
                write_episodes(
                    folder / f"{users.name}.jsonl.gz", _relabelled(episodes, served, judge.concurrency, title)
                )

    directory.once(f"{version}/judged", make)


def evaluation_sets(run: ChatbotRun, before: str, after: str) -> list[EvaluationSet]:
    """Returns the episodes before and after for every group of users, first with the run's labels and then with the
    held-out judge's.
    """
    judge = run.config.evaluation.held_out_judge
    kinds = [("measured", "")] + ([] if judge is None else [("judged", f", by {judge.judge}")])
    return [
        EvaluationSet(
            users=Users(name=users.name + suffix, kind=users.kind),
            before=tuple(read_episodes(run.directory.path(f"{before}/{folder}/{users.name}.jsonl.gz"))),
            after=tuple(read_episodes(run.directory.path(f"{after}/{folder}/{users.name}.jsonl.gz"))),
        )
        for folder, suffix in kinds
        for users, _ in groups_of_users(run.config)
    ]


def report(
    run: ChatbotRun, before: str, after: str, points: Sequence[CurvePoint], pictures: Sequence[Picture]
) -> ChatbotEvaluation:
    """Returns the paired evaluation and the alarms, and writes the report to ``report/``."""
    folder, sets = run.directory.path("report"), evaluation_sets(run, before, after)
    return write_chatbot_report(folder, run.config.name, points, sets, pictures, seed=run.config.seed)


def _relabelled(
    episodes: Sequence[EvaluationEpisode], judge: NamedJudge, concurrency: int, title: str
) -> list[EvaluationEpisode]:
    complete = [record for record in episodes if record.failure is None]
    sessions = [Session(session_id="/".join(map(str, record.key)), messages=record.messages) for record in complete]
    with counting(title, len(complete)) as advance:
        annotations = run_async(judged(sessions, judge, concurrency=concurrency, advance=advance))
    labelled = iter(map(_labelled, complete, annotations))
    return [next(labelled) if record.failure is None else record for record in episodes]


def _labelled(episode: EvaluationEpisode, annotation: Annotation | None) -> EvaluationEpisode:
    """Returns the episode with the judge's issues; as a failed one where the judge could not label it."""
    if annotation is None:
        return episode.model_copy(update={"failure": "overlong", "messages": (), "rewards": (), "reply_tokens": ()})
    messages = tuple(
        message.model_copy(update={"issues": labels}) if message.role == "assistant" else message
        for message, labels in zip(episode.messages, annotation.labels, strict=True)
    )
    return episode.model_copy(update={"messages": messages})


def sentences(evaluation: ChatbotEvaluation) -> Iterable[str]:
    """Yields the sentences that the command prints at its end: a verdict per group of users, and the fired alarms."""
    for row in evaluation.paired.rows if evaluation.paired else ():
        yield verdict(row)
    for alarm in evaluation.alarms:
        if alarm.state == "fired":
            yield f"Alarm: {alarm.sentence}"
