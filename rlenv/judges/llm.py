"""A language model as a ``Judge``: issues of whole sessions, actions of single messages (4.3.2, Appendices D and E).

The model is a ``CachedCompleter``: answers are cached on disk by a hash of model, prompt (with the taxonomy), session
text and schema, so that no request is paid for twice. After a malformed reply the model is asked again, with the
reason.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Literal

from pydantic import Field

from rlenv.core.errors import EngineError, OverlongError, UnusableReplyError
from rlenv.core.settings import Settings, settings
from rlenv.core.taxonomy import Taxonomy
from rlenv.core.types import Annotation, Session
from rlenv.judges.questions import (
    Answer,
    MalformedReply,
    Question,
    action_question,
    issue_question,
    read_actions,
    read_issues,
)
from rlenv.speakers.completers import CachedCompleter, ChatMessages

Kind = Literal["actions", "issues"]
Reader = Callable[[str, Question, Taxonomy], Answer]


@settings
class LLMJudgeConfig(Settings):
    """How a language model is used as a judge."""

    kinds: tuple[Kind, ...] = ("actions", "issues")
    """What is labelled: actions need one request per user message, issues one per session."""
    num_before: int = Field(default=1, ge=0)
    """Messages shown before the labelled one: "agrees", for example, needs to know with what."""
    max_tokens: int = Field(default=2048, ge=1)
    """Longest reply, in tokens; reasoning tokens count."""
    attempts: int = Field(default=3, ge=1)
    """Attempts if replies are malformed, each with another seed."""
    concurrency: int = Field(default=8, ge=1)
    """Concurrent requests, over all sessions."""
    seed: int = 0
    """Seed of the first attempt."""

    def problems(self) -> list[str]:
        """Returns the violated rules across fields, one line each."""
        return [] if self.kinds else ["kinds: expected actions, issues or both, got none"]


class LLMJudge:
    """A ``Judge`` that asks a language model.

    Args:
        completer: the model, with its cache on disk.
        taxonomy: the labels.
        config: the settings.
    """

    def __init__(
        self, completer: CachedCompleter, taxonomy: Taxonomy, config: LLMJudgeConfig = LLMJudgeConfig()
    ) -> None:
        self.name = completer.name
        self.kinds = config.kinds
        self._completer = completer
        self._taxonomy = taxonomy
        self._config = config
        self._places = asyncio.Semaphore(config.concurrency)

    async def annotate(self, session: Session) -> Annotation:
        """Returns the labels of every message; kinds that were not requested have none. See ``Judge``.

        Raises:
            EngineError: the model failed.
            UnusableReplyError: all replies to one question were malformed.
            OverlongError: the session does not fit the model.
        """
        asked = self._questions(session)
        labels: list[tuple[str, ...]] = [()] * len(session.messages)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._ask(question, read)) for question, read in asked]
        except BaseExceptionGroup as errors:  # one error cancels the session's other requests; raise it alone
            error = errors.exceptions[0]
            if isinstance(error, EngineError | OverlongError):
                raise type(error)(f"session {session.session_id}: {error}") from None
            raise error from None
        answers = [task.result() for task in tasks]
        for answer in answers:
            for place, found in answer.labels.items():
                labels[place] = found
        return Annotation(labels=tuple(labels), num_unknown=sum(answer.num_unknown for answer in answers))

    def _questions(self, session: Session) -> list[tuple[Question, Reader]]:
        asked: list[tuple[Question, Reader]] = []
        if "issues" in self.kinds and (whole := issue_question(session, self._taxonomy)):
            asked.append((whole, read_issues))
        if "actions" in self.kinds:
            asked += [
                (action_question(session, i, self._taxonomy, self._config.num_before), read_actions)
                for i, m in enumerate(session.messages)
                if m.role == "user" and m.content.strip()
            ]
        return asked

    async def _ask(self, question: Question, read: Reader) -> Answer:
        """Returns the labels in the reply.

        Malformed replies stay in the cache if a later one is usable, so that a re-run sends no request. If none is
        usable they are removed, so that a re-run asks again.
        """
        tried: list[tuple[ChatMessages, int]] = []
        wrong = ""
        for seed in range(self._config.seed, self._config.seed + self._config.attempts):
            messages = question.messages
            if wrong:
                hint = f"(An earlier reply could not be used: {wrong}. Reply with the JSON alone.)"
                messages = [*messages[:-1], {"role": "user", "content": f"{messages[-1]['content']}\n\n{hint}"}]
            tried.append((messages, seed))
            async with self._places:
                reply = await self._completer.complete(messages, self._config.max_tokens, seed, question.schema)
            try:
                return read(reply, question, self._taxonomy)
            except MalformedReply as error:
                wrong = str(error)
        for messages, seed in tried:
            self._completer.forget(messages, self._config.max_tokens, seed, question.schema)
        raise UnusableReplyError(f"{self.name}: no usable reply in {len(tried)} tries; the last: {wrong}")
