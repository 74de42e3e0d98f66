"""The built-in rewards of a step: realism (Eq. 4), absence of issues, good and bad user actions, a judge's score.

A step is the agent's message and the counterpart's reply. In the chatbot's seat, the reward of a step covers the issues
of the agent's message and the actions of the user's reply; in the user's seat, realism scores the agent's own message.
The ``seats`` of a reward are the agent's seats for which it is defined. ``rlenv.rewards.registry`` makes rewards by
name and weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from rlenv.core.errors import ConfigError
from rlenv.core.log_odds import turn_rewards
from rlenv.core.protocols import Discriminator, Judge
from rlenv.core.taxonomy import Taxonomy, load_taxonomy
from rlenv.core.types import ConversationState, Role, Seat
from rlenv.env.conversation import to_session
from rlenv.rewards.labels import LabelSource, oracle_issues, self_labelled_actions


@dataclass(frozen=True)
class RealismReward:
    """Eq. 4 for the user's seat: how much the agent's message changed the discriminator's log-odds of "real"."""

    discriminator: Discriminator
    seats: ClassVar[tuple[Seat, ...]] = ("user",)

    async def __call__(self, before: ConversationState, after: ConversationState) -> dict[str, float]:
        """Returns ``realism``: the log-odds after the message minus those before it."""
        turn = before.num_user_turns + 1
        if after.num_user_turns < turn:
            return {"realism": 0.0}  # the user left without a message, so there is nothing to score
        session = to_session(after, session_id=after.context_id, source="env", chatbot="env")
        scores = await self.discriminator.log_odds(session)
        return {"realism": float(turn_rewards(scores.log_odds)[turn - 1])}


@dataclass(frozen=True)
class IssueFreeReward:
    """Minus the weight of each issue (Appendix E) of the agent's message, in the step of that message.

    With penalties alone, the best return is that of a conversation which ends at once; ``clean`` counteracts this. Some
    issues show only in the user's reply; as the reply belongs to the step, they are charged to the message that caused
    them.
    """

    categories: Mapping[str, float] = field(default_factory=dict)
    """Issue id to weight."""
    default: float = 1.0
    """Weight of all other issues."""
    issues: LabelSource = oracle_issues
    """Source of the issue labels."""
    clean: float = 0.0
    """Reward of a message without an issue."""
    seats: ClassVar[tuple[Seat, ...]] = ("chatbot",)

    async def __call__(self, before: ConversationState, after: ConversationState) -> dict[str, float]:
        """Returns ``issue_free``: ``clean``, or minus the issues' weights."""
        if _count(after, "assistant") == _count(before, "assistant"):
            return {"issue_free": 0.0}
        found = (await self.issues(after))[_count(before, "assistant")]
        if not found:
            return {"issue_free": self.clean}
        return {"issue_free": 0.0 - sum(self.categories.get(issue, self.default) for issue in found)}


@dataclass(frozen=True)
class UserActionsReward:
    """User actions (Appendix D) in the reply: plus ``good`` for each good one, minus ``bad`` for each bad one."""

    good: float = 1.0
    """Reward of each action of the group "good"."""
    bad: float = 1.0
    """Penalty of each action of the group "bad", as a positive number."""
    actions: LabelSource = self_labelled_actions
    """Who says what the user does in a message."""
    taxonomy: Taxonomy = field(default_factory=load_taxonomy)
    """Which actions are good and bad; all others count nothing."""
    seats: ClassVar[tuple[Seat, ...]] = ("chatbot",)

    async def __call__(self, before: ConversationState, after: ConversationState) -> dict[str, float]:
        """Returns ``user_actions``; 0 where the user did not answer, or left without a word."""
        if after.num_user_turns == before.num_user_turns:
            return {"user_actions": 0.0}
        done = (await self.actions(after))[before.num_user_turns]
        good = len(set(done) & set(self.taxonomy.action_ids("good")))
        bad = len(set(done) & set(self.taxonomy.action_ids("bad")))
        return {"user_actions": self.good * good - self.bad * bad}


@dataclass(frozen=True)
class JudgeReward:
    """A judge's score of the whole conversation, in the step that ends it; one call of the judge per episode.

    A conversation that is truncated between two steps, because the agent's prompt no longer fits, gets no score.
    """

    judge: Judge
    seats: ClassVar[tuple[Seat, ...]] = ("user", "chatbot")

    async def __call__(self, before: ConversationState, after: ConversationState) -> dict[str, float]:
        """Returns ``judge``: 0 until the conversation ends, then the score.

        Raises:
            ConfigError: the judge gives no scores.
        """
        if after.end is None:
            return {"judge": 0.0}
        session = to_session(after, session_id=after.context_id, source="env", chatbot="env")
        score = (await self.judge.annotate(session)).score
        if score is None:
            raise ConfigError(
                f"conversation {after.context_id}: the judge returned no score; this reward needs Annotation.score"
            )
        return {"judge": float(score)}


def _count(state: ConversationState, role: Role) -> int:
    return sum(turn.role == role for turn in state.turns)
