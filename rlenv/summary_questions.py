"""What a language model is asked for a summary: the prompts, and a session or earlier summaries as lines of text.

Knows sessions; nothing of models, budgets or caches (``rlenv.summaries`` asks).
"""

from __future__ import annotations

from collections.abc import Sequence

from rlenv.context_items import SPEAKERS
from rlenv.cutting import MARK, encodable
from rlenv.types import Session, SessionContext

Question = tuple[str, str, list[str]]
"""Whose (a session id, for errors), the prompt, and the lines that it is about."""

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
"""Closes every question: small models go on with a transcript that has no end."""


def session_chat(session: Session) -> Question | None:
    """Returns the question for a session's own summary; None for a session without a word."""
    lines = [
        SPEAKERS[m.role] + encodable(m.content).strip().replace("\n", "\n  ")
        for m in session.messages
        if m.content.strip()
    ]
    return (session.session_id, SESSION_PROMPT, lines) if lines else None


def long_term_chat(session: Session, earlier: Sequence[str | None]) -> Question | None:
    """The question for the long-term context; None with fewer than two earlier sessions, or where it stands."""
    context = session.context
    if by_person(context, "long_term_context"):
        return None
    texts = list(context.previous_summaries) if by_person(context, "previous_summaries") else earlier
    lines = [f"- {encodable(text).strip()}" for text in texts if text and text != MARK]
    return (session.session_id, LONG_TERM_PROMPT, lines) if len(lines) > 1 else None


def written_summary(session: Session) -> str | None:
    """Returns the current summary that a person wrote, if one did."""
    return session.context.current_summary if by_person(session.context, "current_summary") else None


def by_person(context: SessionContext, name: str) -> bool:
    """Returns whether a field of the context is there and no model wrote it."""
    return bool(getattr(context, name)) and name not in context.generated
