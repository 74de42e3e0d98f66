"""A language model as a ``Judge``: issues by whole session, actions by single message (4.3.2, Appendices D and E).

The model is a ``CachedCompleter``: its answers are kept on disk by a hash of model, prompt (with the taxonomy), session
text and schema, so that nothing is paid twice. A malformed reply is asked again, told what was wrong with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Literal

from pydantic import Field

from rlenv.core.errors import EngineError, OverlongError
from rlenv.core.settings import Settings, settings
from rlenv.core.taxonomy import Taxonomy
from rlenv.core.types import Annotation, Session
from rlenv.judges.questions import (
    MalformedReply,
    Question,
    action_question,
    issue_question,
    read_actions,
    read_issues,
)
from rlenv.speakers.completers import CachedCompleter, ChatMessages

Kind = Literal["actions", "issues"]
Reader = Callable[[str, Question, Taxonomy], dict[int, tuple[str, ...]]]


@settings
class LLMJudgeConfig(Settings):
    """How a language model is asked."""

    kinds: tuple[Kind, ...] = ("actions", "issues")
    """What it labels: one request a user message, and one a session."""
    num_before: int = Field(default=1, ge=0)
    """Messages shown before the one whose actions are asked for: "agrees" needs what is agreed with."""
    max_tokens: int = Field(default=2048, ge=1)
    """Longest reply; a reasoning model's thoughts count."""
    attempts: int = Field(default=3, ge=1)
    """Tries where the reply is malformed, each with another seed."""
    concurrency: int = Field(default=8, ge=1)
    """Requests under way at the same time, over all sessions."""
    seed: int = 0
    """Of the first try."""

    def problems(self) -> list[str]:
        """Returns which rules between fields do not hold."""
        return [] if self.kinds else ["kinds: expected actions, issues or both, got none"]


class LLMJudge:
    """A ``Judge`` that asks a language model.

    Args:
        completer: the model, with its memory on disk.
        taxonomy: what it labels with.
        config: see there.
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
        """Returns the labels of every message; of a kind that is not asked for, none. See ``Judge``.

        Raises:
            EngineError: the model failed, or none of its replies was of the form asked for.
            OverlongError: the session does not fit the model.
        """
        asked = self._questions(session)
        labels: list[tuple[str, ...]] = [()] * len(session.messages)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(self._ask(question, read)) for question, read in asked]
        except BaseExceptionGroup as errors:  # one error stops the session's others; it is told alone
            error = errors.exceptions[0]
            if isinstance(error, EngineError | OverlongError):
                raise type(error)(f"session {session.session_id}: {error}") from None
            raise error from None
        for task in tasks:
            for place, found in task.result().items():
                labels[place] = found
        return Annotation(labels=tuple(labels))

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

    async def _ask(self, question: Question, read: Reader) -> dict[int, tuple[str, ...]]:
        """Returns what the reply says. Malformed ones stay remembered if a later one is good, so a re-run asks nothing;
        if none is, they are forgotten, so a re-run asks anew."""
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
        raise EngineError(f"{self.name}: no usable reply in {len(tried)} tries; the last: {wrong}")
