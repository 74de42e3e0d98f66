"""The report of a chatbot's training: did it get better, with whom, at what price, and how it speaks now.

A function of records that the run leaves: the curve, and the conversations held before and after. It writes

report.html       everything, with transcripts of the same context and seed side by side
evaluation.json   the paired evaluation and the alarms
tables/*.csv      one a table
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from launch.chatbot.report_sheets import chatbot_sheets
from launch.chatbot.report_transcripts import paired_transcripts
from launch.reports.figures import Picture
from launch.reports.pages import REPORT, Section, section, write_page
from launch.reports.readings import share
from launch.reports.sheets import Sheet, to_csv
from rlenv.core.files import write_json, write_text
from rlenv.core.types import Record
from rlenv.evaluation.chatbot_rl.alarms import Alarm, AlarmConfig, alarms
from rlenv.evaluation.chatbot_rl.paired import PairedEvaluation, UsersRow, paired_evaluation
from rlenv.evaluation.chatbot_rl.records import CurvePoint, EvaluationSet

SECTIONS = (
    ("users", "Issue rates before and after (Table 5)", "The z-test takes messages as independent, as the paper does; "
     "the verdict rests on the paired test over contexts."),
    ("categories", "Issue categories before and after", "p_holm is corrected for the number of categories."),
    ("figures", "Reward, length and diversity before and after", "By conversation or by message; distinct-2 and "
     "sameness are of a conversation's first 100 words."),
    ("endings", "Who ended conversations, and why", ""),
    ("rounds", "Round by round", "What the round's adapter did, and what the learner made of it."),
)  # fmt: skip


class ChatbotEvaluation(Record):
    """What ``evaluation.json`` holds."""

    name: str
    paired: PairedEvaluation | None
    """None where nothing was measured before and after."""
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
    """Writes the report to ``folder`` and returns what it says.

    Args:
        folder: where; made if it is not there.
        name: of the run.
        curve: one point a round.
        sets: one a group of users, the same conversations before and after.
        pictures: the curve's figures, as PNG files; shown in this order.
        alarm_config: when a trend is an alarm.
        alpha: two-sided level of the verdicts.
        num_transcripts: pairs shown of each group, drawn under ``seed``, beside its largest gain and its largest loss.
        seed: of the draws and the intervals.

    Raises:
        ConfigError: what was held before and after is not paired.
    """
    found = ChatbotEvaluation(
        name=name,
        paired=paired_evaluation(sets, alpha=alpha, seed=seed) if sets else None,
        alarms=alarms(curve, alarm_config),
    )
    tables = chatbot_sheets(found.paired, curve)
    (folder / "tables").mkdir(parents=True, exist_ok=True)
    write_json(folder / "evaluation.json", found.model_dump(mode="json"))
    for sheet in tables:
        write_text(folder / f"tables/{sheet.name}.csv", to_csv(sheet))
    write_page(
        folder / REPORT,
        "chatbot_report.html.jinja",
        name=name,
        summary=_summary(curve, found.paired),
        verdicts=[verdict(row) for row in found.paired.rows] if found.paired else [],
        alarms=found.alarms,
        sections=_sections(tables, pictures),
        transcripts=paired_transcripts(sets, num_transcripts, seed),
    )
    return found


def verdict(row: UsersRow) -> str:
    """Returns what the training changed for a group of users, and whether the gain carried over, in a sentence."""
    kind = {"training": "trained with", "held_out": "never trained with", "population": "the true users"}
    before, after = row.issue_rate.before.value, row.issue_rate.after.value
    rates = " → ".join("unknown" if rate is None else f"{100 * rate:.1f} %" for rate in (before, after))
    p = "" if row.issue_rate.p is None else f", p = {row.issue_rate.p:.2g}"
    said = (
        f"{row.users.name} ({kind[row.users.kind]}): {row.verdict}. Issue rate {rates}, change "
        f"{share(row.issue_rate.delta)}{p}, {row.num_pairs} pairs of conversations in {row.num_contexts} contexts."
    )
    carried = {
        "yes": "The gain with the training users carried over",
        "not shown": "That the gain with the training users carried over is not shown",
        "reversed": "What was gained with the training users was lost here",
        "nothing to carry": "With the training users no gain is shown that could carry over",
    }
    if row.carried is None:
        return said
    kept = f" ({100 * row.share_kept:.0f} % of it)" if row.carried == "yes" and row.share_kept is not None else ""
    return f"{said} {carried[row.carried]}{kept}."


def _summary(curve: Sequence[CurvePoint], paired: PairedEvaluation | None) -> str:
    rounds = f"{len(curve)} rounds, {sum(p.trained_tokens for p in curve):,} tokens learnt from." if curve else ""
    dropped = sum(row.num_dropped for row in paired.rows) if paired else 0
    return f"{rounds} {dropped} pairs were left out, for a conversation of theirs failed.".strip()


def _sections(tables: Sequence[Sheet], pictures: Sequence[Picture]) -> list[Section]:
    sheets = {sheet.name: sheet for sheet in tables}
    figures = [section(picture.name, picture.title, "", None, picture) for picture in pictures]
    shown = [
        section(anchor, title, reading, sheets[anchor], None) for anchor, title, reading in SECTIONS if anchor in sheets
    ]
    return [*shown[:-1], *figures, *shown[-1:]] if "rounds" in sheets else [*shown, *figures]
