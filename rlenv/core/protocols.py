"""The async protocols behind which GPUs, clusters and networks are hidden: one request per call.

An implementation batches concurrent calls; a caller does not depend on engines, actors or servers. Seeded stand-ins
for each protocol are in ``rlenv.speakers.scripted``; one contract test suite runs over every implementation.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rlenv.core.aio import all_of
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
    """Samples tokens from a model: token ids in, token ids out. Equal arguments and seeds give equal tokens."""

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
            sampling: a token of its ``stop_token_ids`` ends the reply and is included in it.
            adapter: the LoRA version to sample with; None means the base model alone.
            conversation: requests with equal keys share a prefix; a pool sends them to the same replica.

        Raises:
            rlenv.core.errors.OverlongError: prompt and reply exceed the model's maximum length.
            rlenv.core.errors.EngineError: the engine died and could not be restarted.
        """
        ...

    async def generate_each(
        self,
        token_ids: Sequence[int],
        sampling: Sampling,
        seeds: Sequence[int | None],
        adapter: Adapter | None = None,
        conversation: str | None = None,
    ) -> list[Generation]:
        """Returns a continuation of the same prompt for each seed, in order: one request, whatever their number.

        Each has the tokens and log-probs that ``generate`` gives with this ``seed`` in ``sampling``. Arguments and
        errors are those of ``generate``; the first error ends all. An engine that inherits from this class need not
        write this method: its requests start together, so that it can read their prompt once.
        """

        async def one(seed: int | None) -> Generation:
            return await self.generate(token_ids, sampling.model_copy(update={"seed": seed}), adapter, conversation)

        return await all_of(one, seeds)


class Speaker(Protocol):
    """Whoever writes the messages of a seat: a user simulator (``UserSimulator``) or a chatbot (``ChatbotPolicy``)."""

    name: str

    async def reply(self, state: ConversationState, seed: int) -> Utterance:
        """Returns the next message of this seat, a function of ``state`` and ``seed`` alone."""
        ...


class UserSimulator(Speaker, Protocol):
    """The user simulator pi_theta of Section 3.1: u_t ~ pi(u | h_t, c)."""


class ChatbotPolicy(Speaker, Protocol):
    """The chatbot, which gives the replies a_t of Section 3.1."""


class Discriminator(Protocol):
    """The discriminator D_phi of Section 3.4."""

    async def log_odds(self, session: Session, branches: Sequence[Branch] = ()) -> SessionScores:
        """Returns log(p_t / (1 - p_t)) after each user message, and after each alternative of each branch.

        A session and its branches are one call, so that an implementation can process the shared past once. The
        alternatives of a branch replace user turn ``branch.turn``; they are scored without the later turns.
        """
        ...


class Judge(Protocol):
    """Whoever annotates conversations: a language model with the taxonomy, a person, or rules."""

    async def annotate(self, session: Session) -> Annotation:
        """Returns the labels of every message and, if the judge gives one, a score of the whole conversation.

        Raises:
            rlenv.core.errors.EngineError: the judge could not be reached; only this conversation fails, not the run.
        """
        ...


class Reward(Protocol):
    """The reward of a step. ``rlenv.rewards.terms`` has the built-in ones, ``make_reward`` makes sums of them.

    The class attribute ``seats`` lists the agent's seats for which the reward is defined; without it, both are.
    """

    async def __call__(self, before: ConversationState, after: ConversationState) -> dict[str, float]:
        """Returns the step's reward by part; the step's reward is their sum.

        Args:
            before: the conversation before the agent's message.
            after: the conversation after the agent's message and, unless it ended, the counterpart's reply.
        """
        ...
