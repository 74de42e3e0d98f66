"""Sources of message labels: the population's oracle, detectors, the speakers themselves, or a judge.

A source returns the labels of all messages of one role, so that a reward does not depend on who labels them.
Independent of rewards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from rlenv.core.errors import ConfigError
from rlenv.core.protocols import Judge
from rlenv.core.types import ConversationState, Role
from rlenv.env.conversation import to_session

Labels = tuple[tuple[str, ...], ...]


class LabelSource(Protocol):
    """Returns labels for the messages of one role: issues for the chatbot's, actions for the user's."""

    async def __call__(self, state: ConversationState) -> Labels:
        """Returns one entry per message of the role, in order."""
        ...


async def oracle_issues(state: ConversationState) -> Labels:
    """Returns the oracle's issues of every chatbot message: the true ones for the population's users, else inferred."""
    from rlenv.population.oracle import issues_of

    return issues_of(state)


async def detected_issues(state: ConversationState) -> Labels:
    """Returns the issues that the rule-based detectors find in every chatbot message; works for any user."""
    from rlenv.judges.detectors import DetectorJudge

    return await JudgedLabels(DetectorJudge(), "assistant")(state)


async def self_labelled_actions(state: ConversationState) -> Labels:
    """Returns the actions of every user message as labelled by the user simulator itself.

    Raises:
        ConfigError: the simulator does not label its messages; language models do not.
    """
    actions = [turn.utterance.actions for turn in state.turns if turn.role == "user"]
    if None in actions:
        raise ConfigError(
            f"conversation {state.context_id}: user message {actions.index(None) + 1} has no action labels; only the "
            "population's users label their own messages, so take the actions from a judge (source: judge)"
        )
    return tuple(labels or () for labels in actions)


@dataclass(frozen=True)
class JudgedLabels:
    """A judge's labels for the messages of one role; one call of the judge per step."""

    judge: Judge
    role: Role
    """"assistant" for issues, "user" for actions."""

    async def __call__(self, state: ConversationState) -> Labels:
        """Returns the judge's labels for the messages of the role.

        Raises:
            ConfigError: the judge did not label every message.
        """
        session = to_session(state, session_id=state.context_id, source="env", chatbot="env")
        labels = (await self.judge.annotate(session)).labels
        if len(labels) != len(state.turns):
            raise ConfigError(
                f"conversation {state.context_id}: the judge labelled {len(labels)} of {len(state.turns)} messages; "
                "Annotation.labels needs one entry per message, empty if no label applies"
            )
        return tuple(found for turn, found in zip(state.turns, labels, strict=True) if turn.role == self.role)
