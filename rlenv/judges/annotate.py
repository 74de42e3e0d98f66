"""Writes a judge's labels into sessions, marked as generated; labels by people are kept unless asked otherwise.

Independent of the kind of judge. With a judge that caches its answers, repeating a failed run resumes it.
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from rlenv.core.aio import all_of
from rlenv.core.errors import EngineError, OverlongError, PhaseError, UnreachableError, UnusableReplyError
from rlenv.core.protocols import Judge
from rlenv.core.types import Annotation, Message, Session
from rlenv.data.labels import KIND_OF_ROLE

log = logging.getLogger(__name__)
ATTEMPTS = 3
"""Attempts of a session whose judge cannot be reached; the answers that it got are cached."""
MAX_FAILURES = 20
"""After this many failed sessions the rest are not judged."""


class NamedJudge(Judge, Protocol):
    """A judge with a name and the kinds of labels that it gives, as needed to store its labels."""

    @property
    def name(self) -> str:
        """The judge's name, with its version or settings."""
        ...

    @property
    def kinds(self) -> Sequence[str]:
        """``actions`` (of user messages), ``issues`` (of chatbot messages), or both."""
        ...


@dataclass
class AnnotationReport:
    """The counts of an annotation."""

    num_sessions: int = 0
    num_not_judged: int = 0
    """Sessions too long for the judge, or to which it gave no usable reply; they are left unchanged."""
    num_unknown: int = 0
    """Labels that the judge named and the taxonomy does not have; they are left out."""
    num_labelled: int = 0
    """Messages that were labelled, including those with an empty list of labels."""
    num_with_label: int = 0
    """Labelled messages with at least one label."""
    num_kept: int = 0
    """Messages that keep the labels people gave them."""
    num_replaced: int = 0
    """Labelled messages that had labels before, by people or generated."""
    labels: Counter[str] = field(default_factory=Counter)
    """Number of messages with each label."""


async def judged(
    sessions: Sequence[Session],
    judge: Judge,
    *,
    concurrency: int = 8,
    advance: Callable[[], None] = lambda: None,
) -> list[Annotation | None]:
    """Returns the judge's annotation of each session, or None if it is too long or gets no usable reply.

    ``concurrency`` sessions are judged at the same time; ``advance`` is called after each.

    Raises:
        PhaseError: the judge failed on some sessions, or could label none; has the number and the first reason.
        ConfigError: none of the judge's requests can succeed.
    """
    failures: list[str] = []
    left_out: list[str] = []
    num_judged = 0

    async def one(session: Session) -> Annotation | None:
        nonlocal num_judged
        annotation = None
        if len(failures) < MAX_FAILURES and (num_judged or len(left_out) < MAX_FAILURES):
            try:
                annotation = await _annotated(judge, session)
                num_judged += 1
            except (EngineError, OverlongError) as error:
                is_of_session = isinstance(error, OverlongError | UnusableReplyError)
                (left_out if is_of_session else failures).append(str(error))
                log.warning("a session was not judged: %s", error)
        advance()
        return annotation

    annotations = await all_of(one, sessions, concurrency)
    if left_out and not num_judged and not failures:
        tried = f"the first {len(left_out)}" if len(left_out) < len(sessions) else "all"
        raise PhaseError(f"none of {len(sessions)} sessions was judged ({tried} tried); the first: {left_out[0]}")
    if failures:
        stopped = f" (stopped after {MAX_FAILURES})" if len(failures) >= MAX_FAILURES else ""
        raise PhaseError(
            f"{len(failures)} of {len(sessions)} sessions were not judged{stopped}; the first: {failures[0]}. Nothing "
            "was written. Answers are kept: run the same command again to resume."
        )
    return annotations


async def _annotated(judge: Judge, session: Session) -> Annotation:
    """Returns the judge's annotation. What fails in an outage is asked again, when the endpoint is back."""
    for _ in range(ATTEMPTS - 1):
        with contextlib.suppress(UnreachableError):
            return await judge.annotate(session)
    return await judge.annotate(session)


def with_labels(
    sessions: Sequence[Session], annotations: Sequence[Annotation | None], judge: NamedJudge, *, replace: bool = False
) -> tuple[list[Session], AnnotationReport]:
    """Returns the sessions with the judge's labels, and the counts.

    Args:
        sessions: the judged sessions.
        annotations: one for each session, with one entry per message; None leaves the session unchanged.
        judge: the judge; only labels of its ``kinds`` are written.
        replace: also replace labels that people gave.
    """
    report = AnnotationReport(num_sessions=len(sessions))
    done = []
    for session, annotation in zip(sessions, annotations, strict=True):
        if annotation is None:
            report.num_not_judged += 1
            done.append(session)
            continue
        report.num_unknown += annotation.num_unknown
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
    was_labelled = getattr(message, kind) is not None
    if was_labelled and kind not in message.generated and not replace:
        report.num_kept += 1
        return message
    report.num_labelled += 1
    report.num_with_label += bool(labels)
    report.num_replaced += was_labelled
    report.labels.update(labels)
    return message.model_copy(update={kind: labels, "generated": tuple(dict.fromkeys((*message.generated, kind)))})
