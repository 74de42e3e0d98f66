"""Records of a chatbot's training for its evaluation: a curve point per round, and the evaluation conversations.

The driver writes them; the paired evaluation, the alarms and the report read them. *Users* is a named group of people
or simulators in the user's seat; its ``kind`` says whether the chatbot was trained with them. The figures are computed
in ``rlenv.evaluation.chatbot_rl.figures``.
"""

from __future__ import annotations

from typing import Literal

from pydantic import AliasChoices, Field

from rlenv.core.types import EndedBy, Message, Record
from rlenv.env.collect import FailureKind
from rlenv.env.provenance import Provenance

UserKind = Literal["training", "held_out", "population"]
"""training: simulators that the chatbot learns with. held_out: simulators that it never does. population: the true
users of the reference population."""


class Users(Record):
    """A group of users."""

    name: str = Field(min_length=1)
    kind: UserKind


class EvaluationEpisode(Record):
    """One evaluation conversation, or the reason why it failed."""

    context_id: str
    counterpart: str = Field(validation_alias=AliasChoices("counterpart", "world"), serialization_alias="world")
    """The speaker in the user's seat."""
    seed: int
    user_id: str = ""
    messages: tuple[Message, ...] = ()
    """In order; every message of the chatbot carries its issues."""
    rewards: tuple[float, ...] = ()
    """Of each step of the chatbot."""
    reply_tokens: tuple[int, ...] = ()
    """Sampled tokens of each message of the chatbot; empty where it is no language model on an engine."""
    num_cut: int = 0
    """Messages of the chatbot that the cap on tokens cut."""
    ended_by: EndedBy | None = None
    end_reason: str | None = None
    provenance: Provenance | None = None
    failure: FailureKind | None = None
    """The reason if there is no conversation; it counts only in the number of failures."""

    @property
    def key(self) -> tuple[str, str, int]:
        """The key of a pair of conversations: context, speaker in the user's seat, seed."""
        return self.context_id, self.counterpart, self.seed


class EvaluationSet(Record):
    """The same contexts, users and seeds with the chatbot before its training and after it."""

    users: Users
    before: tuple[EvaluationEpisode, ...]
    after: tuple[EvaluationEpisode, ...]


class Measured(Record):
    """A mean with its standard error over contexts: conversations of one context are not independent."""

    value: float | None
    """None if nothing could be measured."""
    standard_error: float | None = None
    """None with fewer than two contexts."""
    num: int = 0
    """Conversations or messages (as the field says) behind it."""


class UserFigures(Record):
    """The figures of the chatbot with one group of users."""

    num_conversations: int
    num_failed: int
    num_messages: int
    """Of the chatbot."""
    reward: Measured
    """A conversation's sum of rewards, by conversation."""
    turns: Measured
    """The user's messages, by conversation."""
    reply_words: Measured
    """By message of the chatbot."""
    reply_tokens: Measured
    """By message; nothing measured where the chatbot is no language model on an engine."""
    cut_rate: Measured
    """Share of the messages that the cap on tokens cut, by message."""
    distinct_2: Measured
    """Share of different word pairs among those of the chatbot's first words in a conversation, by conversation."""
    sameness: Measured
    """Share of those word pairs that the chatbot also uses in a conversation of another context, by conversation: it
    rises when the chatbot says the same to everybody."""
    issue_rate: Measured
    """Share of the messages with an issue, by message."""
    issues: dict[str, Measured]
    """The same for every category that occurs, by message."""
    endings: dict[str, int]
    """Conversations by "who: why", as in "user: end_of_session"."""


class CurvePoint(Record):
    """One round of the training: figures of the adapter that sampled it, and of the learner's update."""

    round: int = Field(ge=0)
    """The round's number, from 0; the conversations of round 0 are sampled by the starting adapter."""
    num_updates: int = Field(ge=0)
    """Optimizer steps before this round's conversations were sampled."""
    adapter: str = ""
    """Digest of the adapter that sampled them."""
    train: UserFigures
    """Figures with the users of the round, from whose conversations the chatbot learns."""
    held_out: dict[str, UserFigures] = Field(default_factory=dict)
    """Figures with other groups of users, by name; empty in rounds that are not evaluated."""
    loss: float | None = None
    grad_norm: float | None = None
    kl: float | None = None
    """KL to the starting adapter; None if the loss has no such term."""
    entropy: float | None = None
    sampler_gap_mean: float | None = None
    """Of |learner's log-prob - sampler's| over the sampled tokens."""
    sampler_gap_max: float | None = None
    sampler_kl: float | None = None
    """KL of sampler to learner, estimated by k3."""
    staleness_mean: float = 0.0
    """Rounds between the adapter that sampled a conversation and the learner."""
    staleness_max: float = 0.0
    num_stale: int = 0
    """Conversations left out for their age."""
    num_masked: int = 0
    """Chatbot messages that were masked or counted less, for the simulator was at fault."""
    trained_tokens: int = 0
    """The chatbot's own tokens that were learnt from."""
    read_tokens: int = 0
    """Tokens that went through the learner."""
    rollout_seconds: float = 0.0
    evaluation_seconds: float = 0.0
    """Of measuring with the other users."""
    update_seconds: float = 0.0
