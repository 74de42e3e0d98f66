"""The report of a chatbot's training: the same episodes before and after, labelled by every judge.

VERSION/judged/*.jsonl.gz   the measured conversations with the held-out judge's labels
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
from rlenv.core.types import Session
from rlenv.evaluation.chatbot_rl.records import CurvePoint, EvaluationEpisode, EvaluationSet, Users
from rlenv.judges.annotate import NamedJudge, judged


def rejudge(run: ChatbotRun, version: str) -> None:
    """Has the held-out judge label a version's measured conversations; does nothing where there is no such judge."""
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
    """Returns the pairs of every group of users, by the run's own labels and then by the held-out judge's."""
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
    """Returns what ``report/`` says: the paired evaluation and the alarms."""
    folder, sets = run.directory.path("report"), evaluation_sets(run, before, after)
    return write_chatbot_report(folder, run.config.name, points, sets, pictures, seed=run.config.seed)


def _relabelled(
    held: Sequence[EvaluationEpisode], judge: NamedJudge, concurrency: int, title: str
) -> list[EvaluationEpisode]:
    there = [record for record in held if record.failure is None]
    sessions = [Session(session_id="/".join(map(str, record.key)), messages=record.messages) for record in there]
    with counting(title, len(there)) as advance:
        annotations = run_async(judged(sessions, judge, concurrency=concurrency, advance=advance))
    labelled = iter(
        record.model_copy(
            update={
                "messages": tuple(
                    message.model_copy(update={"issues": labels}) if message.role == "assistant" else message
                    for message, labels in zip(record.messages, annotation.labels, strict=True)
                )
            }
        )
        for record, annotation in zip(there, annotations, strict=True)
    )
    return [next(labelled) if record.failure is None else record for record in held]


def sentences(found: ChatbotEvaluation) -> Iterable[str]:
    """Yields what the run's user is told at its end."""
    for row in found.paired.rows if found.paired else ():
        yield verdict(row)
    for alarm in found.alarms:
        if alarm.state == "fired":
            yield f"Alarm: {alarm.sentence}"
