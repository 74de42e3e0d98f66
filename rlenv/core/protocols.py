"""What stands behind a GPU, a cluster or a network: a few small async protocols, one request a call.

Whoever implements one batches behind it; whoever calls one knows nothing of engines, actors or servers.
Seeded stand-ins for each are in ``rlenv.speakers.scripted``; one contract test-suite runs over every implementation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rlenv.core.types import (
    Adapter,
    Annotation,
    Branch,
    ConversationState,
    Generation,
    Sampling,
    Session,
    SessionScores,
    Utterance,
)


class Engine(Protocol):
    """Token ids in, token ids out. Equal arguments (the seed included) give equal tokens."""

    async def generate(
        self,
        token_ids: Sequence[int],
        sampling: Sampling,
        adapter: Adapter | None = None,
        conversation: str | None = None,
    ) -> Generation:
        """Returns one sampled continuation of ``token_ids``.

        Args:
            token_ids: the prompt, [n].
            sampling: its ``stop_token_ids`` end the reply and are part of it.
            adapter: the LoRA version to sample with; None is the bare model.
            conversation: requests that share this key share a prefix; a pool keeps them on one replica.

        Raises:
            rlenv.core.errors.OverlongError: prompt and reply do not fit the model's positions.
            rlenv.core.errors.EngineError: the engine died and could not be brought back.
        """
        ...


class Speaker(Protocol):
    """Who sits in a seat: the user simulator (``UserSimulator``) or the chatbot (``ChatbotPolicy``)."""

    name: str

    async def reply(self, state: ConversationState, seed: int) -> Utterance:
        """Returns the next message of this seat. A function of ``state`` and ``seed`` alone."""
        ...


class UserSimulator(Speaker, Protocol):
    """pi_theta of Section 3.1: u_t ~ pi(u | h_t, c)."""


class ChatbotPolicy(Speaker, Protocol):
    """The agent a_t of Section 3.1."""


class Discriminator(Protocol):
    """D_phi of Section 3.4."""

    async def log_odds(self, session: Session, branches: Sequence[Branch] = ()) -> SessionScores:
        """Returns log(p_t / (1 - p_t)) after each user message, and after each alternative of each branch.

        A session comes with its branches in one call, so that an implementation may read the shared past once.
        The alternatives of a branch replace user turn ``branch.turn``; later turns are not read for them.
        """
        ...


class Judge(Protocol):
    """Who annotates conversations: a language model with the taxonomy, a person, a rule."""

    async def annotate(self, session: Session) -> Annotation:
        """Returns the labels of every message, and where it gives one a score of the conversation.

        Raises:
            rlenv.core.errors.EngineError: the judge could not be reached; the conversation fails, not the run.
        """
        ...


class Reward(Protocol):
    """What a step of the agent is worth. ``rlenv.rewards.terms`` has the library's, ``make_reward`` makes sums of them.

    A class may name the agent's seats in which it makes sense as ``seats``; without, it fits both.
    """

    async def __call__(self, before: ConversationState, after: ConversationState) -> dict[str, float]:
        """Returns the step's reward by part; the step's reward is their sum.

        Args:
            before: the conversation when the agent was to speak.
            after: the conversation after the agent and, unless it ended, the counterpart spoke.
        """
        ...
