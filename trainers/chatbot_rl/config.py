"""The settings of the chatbot's reinforcement learning, and the record of its result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from rlenv.core.errors import ConfigError
from rlenv.core.settings import settings
from rlenv.core.types import Adapter
from rlenv.learning.credit import CreditConfig
from trainers.backend.config import AdapterTraining


@settings
class ChatbotRlConfig(AdapterTraining):
    """Reinforcement learning on conversations. The loss settings and most defaults are TRL's."""

    num_rounds: PositiveInt = 20
    """Number of rounds; each round's conversations are sampled by the current adapter."""
    num_groups: PositiveInt = 8
    """Groups per round; a group is one context with its persona."""
    group_size: int = Field(default=8, ge=2)
    """Conversations per group."""
    credit: CreditConfig = CreditConfig()
    temperature: PositiveFloat = 1.0
    """The sampler's temperature. Its other settings (top_p, top_k) should leave the distribution unchanged."""
    loss_type: Literal["dapo", "grpo", "bnpo", "dr_grpo"] = "dapo"
    """How token losses are averaged. dapo: over all tokens of the round. grpo: over each conversation's tokens, then
    over conversations. bnpo: over all tokens of the batch. dr_grpo: divided by the constant ``max_tokens``."""
    max_tokens: PositiveInt = 512
    """The constant of dr_grpo, in tokens per conversation; it scales the learning rate."""
    epsilon: PositiveFloat = 0.2
    epsilon_high: PositiveFloat = 0.2
    """The importance ratio to the policy at the round's start is clipped to [1 - epsilon, 1 + epsilon_high]."""
    importance_sampling_level: Literal["token", "sequence"] = "token"
    """Importance ratio of each token, or one for the conversation: the geometric mean over its tokens (GSPO)."""
    beta: NonNegativeFloat = 0.04
    """Coefficient of the KL divergence to the starting adapter; 0 leaves out the term and loads no reference."""
    sampler_correction: Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask", "none"] = (
        "token_truncate"
    )
    """Importance weights for the sampler's log-probs, which differ slightly from the learner's: the ratio of learner
    to sampler, for each token or conversation; above ``sampler_cap`` it is capped (truncate) or set to 0 (mask)."""
    sampler_cap: PositiveFloat = 2.0
    max_staleness: NonNegativeInt = 0
    """How many rounds the adapter that sampled a conversation may lag behind the learner; older conversations are left
    out and counted."""

    epochs: PositiveFloat = 1.0
    """Passes over each round's conversations; a whole number."""
    batch_size: PositiveInt = 4
    gradient_accumulation: PositiveInt = 16
    learning_rate: PositiveFloat = 1e-5
    save_every: NonNegativeInt = 5
    """Rounds between checkpoints to resume from; 0 saves none."""

    def problems(self) -> list[str]:
        """Returns the violated rules across fields, one line each."""
        if self.epochs != int(self.epochs):
            return [f"epochs: expected a whole number, got {self.epochs}"]
        return []

    def updates_per_round(self, num_workers: int = 1) -> int:
        """Returns the optimizer steps per round.

        Raises:
            ConfigError: a round's conversations do not divide evenly into steps.
        """
        conversations, step = self.num_groups * self.group_size, self.batch_size * self.gradient_accumulation
        if conversations % (step * num_workers):
            raise ConfigError(
                f"rl: a round has {self.num_groups} x {self.group_size} = {conversations} conversations, a "
                f"step batch_size x gradient_accumulation x workers = {step * num_workers}; expected a divisor of "
                f"{conversations}"
            )
        return int(self.epochs) * conversations // (step * num_workers)


@dataclass(frozen=True)
class ChatbotRlResult:
    """The new adapter and its training figures. ``*_first`` and ``*_last`` are means over a tenth of the rounds."""

    adapter: Adapter
    num_rounds: int
    num_updates: int
    num_conversations: int
    """Conversations trained on."""
    num_failed: int
    """Episodes that failed and were left out."""
    trained_tokens: int
    reward_first: float
    reward_last: float
    kl_last: float | None
    """KL to the starting adapter, estimated by k3; None if beta is 0."""
    sampler_gap_mean: float
    """Mean of |learner's log-prob - sampler's log-prob|, over all rounds."""
    sampler_gap_max: float
    sampler_kl: float
    """KL(sampler || learner), estimated by k3, over all rounds."""
    rollout_seconds: float
