"""Where labels of messages come from: the population's oracle, detectors, the speakers themselves, or a judge.

A source gives the labels of every message of one role, so that a reward can read them without knowing who labelled.
Knows nothing of rewards.
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
    """The labels of one role's messages: issues of the chatbot's, or actions of the user's."""

    async def __call__(self, state: ConversationState) -> Labels:
        """Returns one entry for each message of the role, in order."""
        ...


async def oracle_issues(state: ConversationState) -> Labels:
    """Returns the issues of every chatbot message by the population's oracle: true for its users, else inferred."""
    from rlenv.population.oracle import issues_of

    return issues_of(state)


async def detected_issues(state: ConversationState) -> Labels:
    """Returns the issues of every chatbot message that the detectors are sure of, whoever the user is."""
    from rlenv.judges.detectors import DetectorJudge

    return await JudgedLabels(DetectorJudge(), "assistant")(state)


async def self_labelled_actions(state: ConversationState) -> Labels:
    """Returns the actions of every user message as the user itself labelled them.

    Raises:
        ConfigError: this user labels nothing, as language models do not.
    """
    actions = [turn.utterance.actions for turn in state.turns if turn.role == "user"]
    if None in actions:
        raise ConfigError(
            f"conversation {state.context_id}: user message {actions.index(None) + 1} carries no actions, for only the "
            "population's users label their own; take the actions from a judge (source: judge)"
        )
    return tuple(labels or () for labels in actions)


@dataclass(frozen=True)
class JudgedLabels:
    """The labels of one role's messages as a judge gives them: one call of the judge a step."""

    judge: Judge
    role: Role
    """"assistant" for issues, "user" for actions."""

    async def __call__(self, state: ConversationState) -> Labels:
        """Returns the judge's labels of the role's messages.

        Raises:
            ConfigError: the judge did not label every message.
        """
        session = to_session(state, session_id=state.context_id, source="env", chatbot="env")
        labels = (await self.judge.annotate(session)).labels
        if len(labels) != len(state.turns):
            raise ConfigError(
                f"conversation {state.context_id}: the judge labelled {len(labels)} of {len(state.turns)} messages; "
                "Annotation.labels holds one entry a message, empty where nothing applies"
            )
        return tuple(found for turn, found in zip(state.turns, labels, strict=True) if turn.role == self.role)
