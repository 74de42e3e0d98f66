"""Labels written into sessions by a judge: marked as generated, and never over what a person wrote unless asked.

Knows nothing of who judges. A judge that remembers its answers goes on where a run that failed was.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from rlenv.core.aio import all_of
from rlenv.core.errors import EngineError, OverlongError, PhaseError
from rlenv.core.protocols import Judge
from rlenv.core.types import Annotation, Message, Role, Session

log = logging.getLogger(__name__)
MAX_FAILURES = 20
"""After so many failed sessions no more are asked for."""
KIND_OF_ROLE: dict[Role, str] = {"user": "actions", "assistant": "issues"}


class NamedJudge(Judge, Protocol):
    """A judge whose labels can be kept: it says who it is and what it labels."""

    @property
    def name(self) -> str:
        """Who it is, with its version or settings."""
        ...

    @property
    def kinds(self) -> Sequence[str]:
        """``actions`` (of user messages), ``issues`` (of chatbot messages), or both."""
        ...


@dataclass
class AnnotationReport:
    """What was labelled: counts only."""

    num_sessions: int = 0
    num_too_long: int = 0
    """Of them, those that do not fit the judge and are left as they were."""
    num_labelled: int = 0
    """Messages that got labels, an empty list of them included."""
    num_with_label: int = 0
    """Of them, those with at least one label."""
    num_kept: int = 0
    """Messages whose labels people wrote, and that stay."""
    num_replaced: int = 0
    """Messages whose labels were there before, a person's or generated."""
    labels: Counter[str] = field(default_factory=Counter)
    """Messages by label."""


async def judged(
    sessions: Sequence[Session],
    judge: Judge,
    *,
    concurrency: int = 8,
    advance: Callable[[], None] = lambda: None,
) -> list[Annotation | None]:
    """Returns what the judge says of each session, ``concurrency`` of them at a time; None of one that it cannot fit.

    Raises:
        PhaseError: it failed on some, or none fits; with how many, and the first reason.
        ConfigError: no request of it can succeed.
    """
    failures: list[str] = []
    too_long: list[str] = []

    async def one(session: Session) -> Annotation | None:
        found = None
        if len(failures) < MAX_FAILURES:
            try:
                found = await judge.annotate(session)
            except (EngineError, OverlongError) as error:
                (too_long if isinstance(error, OverlongError) else failures).append(str(error))
                log.warning("a session was not judged: %s", error)
        advance()
        return found

    annotations = await all_of(one, sessions, concurrency)
    if too_long and len(too_long) == len(sessions):
        raise PhaseError(f"none of {len(sessions)} sessions fits the judge; the first: {too_long[0]}")
    if failures:
        stopped = f" (stopped after {MAX_FAILURES})" if len(failures) >= MAX_FAILURES else ""
        raise PhaseError(
            f"{len(failures)} of {len(sessions)} sessions were not judged{stopped}; the first: {failures[0]}. Nothing "
            "was written. Answers are kept: run the same command again to go on."
        )
    return annotations


def with_labels(
    sessions: Sequence[Session], annotations: Sequence[Annotation | None], judge: NamedJudge, *, replace: bool = False
) -> tuple[list[Session], AnnotationReport]:
    """Returns the sessions with the judge's labels in them, and what was written.

    Args:
        sessions: as they were judged.
        annotations: of each, one entry a message; None leaves the session as it is.
        judge: who it was; only its ``kinds`` are written.
        replace: also over labels that people wrote.
    """
    report = AnnotationReport(num_sessions=len(sessions))
    done = []
    for session, annotation in zip(sessions, annotations, strict=True):
        if annotation is None:
            report.num_too_long += 1
            done.append(session)
            continue
        messages = tuple(
            _labelled(message, labels, judge, replace, report)
            for message, labels in zip(session.messages, annotation.labels, strict=True)
        )
        kinds = {kind for m in messages for kind in m.generated if kind in judge.kinds}
        update: dict[str, object] = {"messages": messages}
        if kinds:
            update["judges"] = session.judges | {kind: judge.name for kind in sorted(kinds)}
        done.append(session.model_copy(update=update))
    return done, report


def _labelled(
    message: Message, labels: tuple[str, ...], judge: NamedJudge, replace: bool, report: AnnotationReport
) -> Message:
    kind = KIND_OF_ROLE[message.role]
    if kind not in judge.kinds:
        return message
    there = getattr(message, kind) is not None
    if there and kind not in message.generated and not replace:
        report.num_kept += 1
        return message
    report.num_labelled += 1
    report.num_with_label += bool(labels)
    report.num_replaced += there
    report.labels.update(labels)
    return message.model_copy(update={kind: labels, "generated": tuple(dict.fromkeys((*message.generated, kind)))})
