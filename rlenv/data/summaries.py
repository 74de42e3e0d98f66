"""Writes the summaries of a user context with a language model (Appendix A): of this session, earlier ones, long-term.

Each session is summarized once. A session's earlier summaries are those of the same user's sessions before it in the
file (a file is in order of time); its long-term context is made from all of them. Text by people is never overwritten.
Independent of where the language model runs (``rlenv.speakers.completers``).
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from rlenv.core.aio import all_of
from rlenv.core.errors import EngineError, OverlongError, PhaseError
from rlenv.core.settings import Settings, settings
from rlenv.core.types import Session, SessionContext
from rlenv.prompting.context_items import SPEAKERS
from rlenv.prompting.cutting import MARK, CountTokens, cut_middle, encodable, estimate_tokens
from rlenv.speakers.completers import CachedCompleter, ChatMessages

Question = tuple[str, str, list[str]]
"""The session id (for errors), the prompt, and the lines to summarize."""
SESSION_PROMPT = """\
You write the record of one mental health support session, for whoever must know it without reading it.
In 3 to 6 plain sentences about "the user": why they came, the topics in their order, what they felt at the start and \
at the end, what the chatbot tried, how the user took it, and what they came to see, if anything.
Only what was said. No advice, no diagnosis, no headings, no quotes."""
LONG_TERM_PROMPT = """\
You are given the records of one user's mental health support sessions, oldest first.
In 3 to 6 plain sentences about "the user": what keeps coming back, what has changed over time, and what stays open.
Only what the records say. No advice, no diagnosis, no headings."""
WRITE = "(Write the record now.)"
"""The last line of every question: without it, small models continue the transcript."""

log = logging.getLogger(__name__)


@settings
class SummaryConfig(Settings):
    """How summaries are made."""

    num_previous: int = Field(default=5, ge=1)
    """Number of earlier summaries per session; the latest ones are used (Appendix A: 3 to 5)."""
    num_recent_sessions: int = Field(default=1, ge=0)
    """Number of the user's earlier sessions whose messages are added; the latest ones are used, 0 adds none."""
    input_tokens: int = Field(default=3000, ge=64)
    """Longest transcript or list of summaries shown to the model, in tokens; longer ones lose their middle."""
    max_tokens: int = Field(default=300, ge=1)
    """Longest answer, in tokens."""
    concurrency: int = Field(default=8, ge=1)
    """Concurrent requests."""
    attempts: int = Field(default=3, ge=1)
    """Attempts if answers are empty, each with another seed."""
    max_failures: int = Field(default=20, ge=1)
    """After this many failed summaries no more are requested."""
    seed: int = 0
    """Seed of the first attempt."""


@dataclass
class SummaryReport:
    """The counts of a summarization."""

    num_sessions: int = 0
    num_users: int = 0
    num_asked: int = 0
    num_cached: int = 0
    """Answers taken from the cache."""
    num_current: int = 0
    """Sessions that were given a current summary."""
    num_previous: int = 0
    """Sessions that were given earlier summaries."""
    num_long_term: int = 0
    num_recent: int = 0
    num_kept: int = 0
    """Fields kept because people wrote them."""
    num_empty: int = 0
    """Sessions without text to summarize."""
    num_cut: int = 0
    """Inputs whose middle was cut out."""


async def summarize(
    sessions: Sequence[Session],
    completer: CachedCompleter,
    config: SummaryConfig,
    count_tokens: CountTokens = estimate_tokens,
    advance: Callable[[], None] = lambda: None,
) -> tuple[list[Session], SummaryReport]:
    """Returns the sessions with the summaries of their contexts filled in, and the counts.

    Args:
        sessions: in order of time, at least for each user.
        completer: caches its answers, so that a failed or killed run can resume.
        config: sizes and limits.
        count_tokens: counts tokens of the completer's model.
        advance: called after each session's own summary.

    Raises:
        PhaseError: some summaries failed; the finished ones are cached, so the same call resumes.
        ConfigError: no request to the endpoint can succeed.
    """
    report = SummaryReport(num_sessions=len(sessions), num_users=len({s.user_id for s in sessions}))
    asking = _Asking(completer, config, count_tokens, report)
    known = await asking.all([session_chat(s) for s in sessions], [written_summary(s) for s in sessions], advance)
    histories = _histories(sessions)
    chats = [long_term_chat(s, [known[j] for j in histories[i]]) for i, s in enumerate(sessions)]
    long_terms = await asking.all(chats, [None] * len(sessions))
    asking.check(len(sessions))
    done = []
    for i, session in enumerate(sessions):
        past = histories[i]
        previous = tuple(text for j in past if (text := known[j]))[-config.num_previous :]
        recent = tuple(sessions[j].messages for j in past)[len(past) - config.num_recent_sessions :]
        recent = recent if config.num_recent_sessions else ()
        report.num_empty += known[i] is None
        done.append(_filled(session, known[i], previous, long_terms[i], recent, report))
    report.num_asked, report.num_cached = completer.num_asked, completer.num_cached
    return done, report


class _Asking:
    """The requests of one run, with limited concurrency, and their failures."""

    def __init__(
        self, completer: CachedCompleter, config: SummaryConfig, count: CountTokens, report: SummaryReport
    ) -> None:
        self.completer, self.config, self.count, self.report = completer, config, count, report
        self.failures: list[str] = []

    async def all(
        self,
        chats: Sequence[Question | None],
        known: Sequence[str | None],
        advance: Callable[[], None] = lambda: None,
    ) -> list[str | None]:
        """Returns for each question the known text, otherwise the model's answer, otherwise None."""

        async def answer(asked: tuple[Question | None, str | None]) -> str | None:
            chat, text = asked
            if text is None and chat is not None and len(self.failures) < self.config.max_failures:
                text = await self.one(*chat)
            advance()
            return text

        return await all_of(answer, zip(chats, known, strict=True), self.config.concurrency)

    async def one(self, who: str, prompt: str, lines: list[str]) -> str | None:
        kept = cut_middle(lines, self.config.input_tokens, self.count)
        self.report.num_cut += kept != lines
        shown = "\n".join([*kept, "", WRITE])
        chat: ChatMessages = [{"role": "system", "content": prompt}, {"role": "user", "content": shown}]
        try:
            for attempt in range(self.config.attempts):
                seed = self.config.seed + attempt
                if answer := await self.completer.complete(chat, self.config.max_tokens, seed):
                    return answer
            self.failures.append(f"session {who}: no answer in {self.config.attempts} tries")
        except OverlongError as error:
            self.failures.append(f"session {who}: {error}; lower input_tokens ({self.config.input_tokens})")
        except EngineError as error:
            self.failures.append(f"session {who}: {error}")
        log.warning("summary failed: %s", self.failures[-1])
        return None

    def check(self, num_sessions: int) -> None:
        if self.failures:
            num, most = len(self.failures), self.config.max_failures
            stopped = f" (stopped after {most})" if num >= most else ""
            raise PhaseError(
                f"{num} summaries failed of {num_sessions} sessions{stopped}; the first: {self.failures[0]}. Nothing "
                f"was written. {self.completer.num_asked} answers are kept: run the same command again to resume."
            )


def _histories(sessions: Sequence[Session]) -> list[list[int]]:
    """Returns for each session the indices of the same user's earlier sessions, oldest first."""
    seen: dict[str, list[int]] = defaultdict(list)
    histories = []
    for i, session in enumerate(sessions):
        histories.append(list(seen[session.user_id]))
        seen[session.user_id].append(i)
    return histories


def _filled(
    session: Session,
    current: str | None,
    previous: tuple[str, ...],
    long_term: str | None,
    recent: tuple[Any, ...],
    report: SummaryReport,
) -> Session:
    context, update = session.context, dict[str, Any]()
    for name, value, counter in (
        ("current_summary", current, "num_current"),
        ("previous_summaries", previous, "num_previous"),
        ("long_term_context", long_term, "num_long_term"),
    ):
        if by_person(context, name):
            report.num_kept += 1
        elif value:
            update[name] = value
            setattr(report, counter, getattr(report, counter) + 1)
    if update:
        update["generated"] = tuple(dict.fromkeys((*context.generated, *update)))
    if recent and not context.recent_sessions:
        update["recent_sessions"] = recent
        report.num_recent += 1
    return session.model_copy(update={"context": context.model_copy(update=update)}) if update else session


def session_chat(session: Session) -> Question | None:
    """Returns the question for a session's own summary; None for a session without text."""
    lines = [
        SPEAKERS[m.role] + encodable(m.content).strip().replace("\n", "\n  ")
        for m in session.messages
        if m.content.strip()
    ]
    return (session.session_id, SESSION_PROMPT, lines) if lines else None


def long_term_chat(session: Session, earlier: Sequence[str | None]) -> Question | None:
    """Returns the question for the long-term context; None with fewer than two earlier summaries, or if it exists."""
    context = session.context
    if by_person(context, "long_term_context"):
        return None
    texts = list(context.previous_summaries) if by_person(context, "previous_summaries") else earlier
    lines = [f"- {encodable(text).strip()}" for text in texts if text and text != MARK]
    return (session.session_id, LONG_TERM_PROMPT, lines) if len(lines) > 1 else None


def written_summary(session: Session) -> str | None:
    """Returns the current summary if a person wrote it, otherwise None."""
    return session.context.current_summary if by_person(session.context, "current_summary") else None


def by_person(context: SessionContext, name: str) -> bool:
    """Returns whether a field of the context has a value that no model wrote."""
    return bool(getattr(context, name)) and name not in context.generated
