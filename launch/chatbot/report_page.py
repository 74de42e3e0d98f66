"""Writes the report of a chatbot's training: whether it got better, with which users, and how it speaks now.

It is made from records that the run keeps: the learning curve, and the conversations before and after. It writes

report.html       the whole report, with transcripts of the same context and seed side by side
evaluation.json   the paired evaluation and the alarms
tables/*.csv      one file per table
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from launch.chatbot.report_sheets import chatbot_sheets
from launch.chatbot.report_transcripts import paired_transcripts
from launch.reports.captions import share
from launch.reports.figures import Picture
from launch.reports.pages import REPORT, Section, section, write_page
from launch.reports.sheets import Sheet, to_csv
from rlenv.core.files import write_json, write_text
from rlenv.core.types import Record
from rlenv.evaluation.chatbot_rl.alarms import Alarm, AlarmConfig, alarms
from rlenv.evaluation.chatbot_rl.paired import PairedEvaluation, UsersRow, paired_evaluation
from rlenv.evaluation.chatbot_rl.records import CurvePoint, EvaluationSet

SECTIONS = (
    ("users", "Issue rates before and after (Table 5)", "The z-test treats messages as independent, as the paper does. "
     "The verdict is that of the paired test over contexts."),
    ("categories", "Issue categories before and after", "p_holm is corrected for the number of categories."),
    ("figures", "Reward, length and diversity before and after", "Means per conversation or message. Distinct-2 and "
     "sameness use the first 100 words of a conversation."),
    ("endings", "Who ended the conversations, and why", ""),
    ("rounds", "Round by round", "The conversations of each round's adapter, and the learner's update on them."),
)  # fmt: skip


class ChatbotEvaluation(Record):
    """The contents of ``evaluation.json``."""

    name: str
    paired: PairedEvaluation | None
    """None where there are no conversations before and after."""
    alarms: tuple[Alarm, ...]


def write_chatbot_report(
    folder: Path,
    name: str,
    curve: Sequence[CurvePoint],
    sets: Sequence[EvaluationSet],
    pictures: Sequence[Picture] = (),
    *,
    alarm_config: AlarmConfig = AlarmConfig(),
    alpha: float = 0.05,
    num_transcripts: int = 3,
    seed: int = 0,
) -> ChatbotEvaluation:
    """Returns the evaluation and the alarms, and writes the report to ``folder``.

    Args:
        folder: the report's folder; created if it does not exist.
        name: the run's name.
        curve: one point per round.
        sets: one per group of users, with the same conversations before and after.
        pictures: the learning curve's figures as PNG files, in the order shown.
        alarm_config: the thresholds of the alarms.
        alpha: two-sided level of the verdicts.
        num_transcripts: pairs shown per group, drawn under ``seed``, besides its largest gain and its largest loss.
        seed: the seed of draws and intervals.

    Raises:
        ConfigError: the conversations before and after are not pairs.
    """
    evaluation = ChatbotEvaluation(
        name=name,
        paired=paired_evaluation(sets, alpha=alpha, seed=seed) if sets else None,
        alarms=alarms(curve, alarm_config),
    )
    tables = chatbot_sheets(evaluation.paired, curve)
    (folder / "tables").mkdir(parents=True, exist_ok=True)
    write_json(folder / "evaluation.json", evaluation.model_dump(mode="json"))
    for sheet in tables:
        write_text(folder / f"tables/{sheet.name}.csv", to_csv(sheet))
    write_page(
        folder / REPORT,
        "chatbot_report.html.jinja",
        name=name,
        summary=_summary(curve, evaluation.paired),
        verdicts=[verdict(row) for row in evaluation.paired.rows] if evaluation.paired else [],
        alarms=evaluation.alarms,
        sections=_sections(tables, pictures),
        transcripts=paired_transcripts(sets, num_transcripts, seed),
    )
    return evaluation


def verdict(row: UsersRow) -> str:
    """Returns how the issue rate changed with a group of users, and whether the gain carried over to them, in words."""
    kind = {"training": "trained with", "held_out": "never trained with", "population": "the true users"}
    before, after = row.issue_rate.before.value, row.issue_rate.after.value
    rates = " → ".join("unknown" if rate is None else f"{100 * rate:.1f} %" for rate in (before, after))
    p = "" if row.issue_rate.p is None else f", p = {row.issue_rate.p:.2g}"
    change = (
        f"{row.users.name} ({kind[row.users.kind]}): {row.verdict}. Issue rate {rates}, change "
        f"{share(row.issue_rate.delta)}{p}, {row.num_pairs} pairs of conversations in {row.num_contexts} contexts."
    )
    carried = {
        "yes": "The gain with the training users carried over",
        "not shown": "It is not shown that the gain with the training users carried over",
        "reversed": "The gain with the training users is a loss with these users",
        "nothing to carry": "No gain with the training users is shown, so there is none to carry over",
    }
    if row.carried is None:
        return change
    kept = f" ({100 * row.share_kept:.0f} % of it)" if row.carried == "yes" and row.share_kept is not None else ""
    return f"{change} {carried[row.carried]}{kept}."


def _summary(curve: Sequence[CurvePoint], paired: PairedEvaluation | None) -> str:
    rounds = f"{len(curve)} rounds, {sum(p.trained_tokens for p in curve):,} tokens trained on." if curve else ""
    dropped = sum(row.num_dropped for row in paired.rows) if paired else 0
    return f"{rounds} {dropped} pairs were left out because one of the two conversations failed.".strip()


def _sections(tables: Sequence[Sheet], pictures: Sequence[Picture]) -> list[Section]:
    sheets = {sheet.name: sheet for sheet in tables}
    figures = [section(picture.name, picture.title, "", None, picture) for picture in pictures]
    shown = [
        section(anchor, title, reading, sheets[anchor], None) for anchor, title, reading in SECTIONS if anchor in sheets
    ]
    return [*shown[:-1], *figures, *shown[-1:]] if "rounds" in sheets else [*shown, *figures]
