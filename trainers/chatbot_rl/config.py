"""The settings of a chatbot's reinforcement learning, and the record that comes out."""

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
    """Reinforcement learning on conversations. Loss settings and most defaults are TRL's."""

    num_rounds: PositiveInt = 20
    """Rounds of conversations, each sampled by the adapter as it is then."""
    num_groups: PositiveInt = 8
    """Groups a round: contexts with their persona."""
    group_size: int = Field(default=8, ge=2)
    """Conversations a group."""
    credit: CreditConfig = CreditConfig()
    temperature: PositiveFloat = 1.0
    """The sampler's. Its other settings (top_p, top_k) should leave the distribution whole."""
    loss_type: Literal["dapo", "grpo", "bnpo", "dr_grpo"] = "dapo"
    """How token losses are averaged: over the round's tokens, over conversations of token means, over the batch's
    tokens, or by the constant ``max_tokens``."""
    max_tokens: PositiveInt = 512
    """The constant of dr_grpo: tokens of a conversation, as a unit of the learning rate."""
    epsilon: PositiveFloat = 0.2
    epsilon_high: PositiveFloat = 0.2
    """The probability ratio to the round's first step is clipped to 1 - epsilon ... 1 + epsilon_high."""
    importance_sampling_level: Literal["token", "sequence"] = "token"
    """Ratio of each token, or of the conversation as a geometric mean (GSPO)."""
    beta: NonNegativeFloat = 0.04
    """Of the KL divergence to the starting adapter; 0 leaves it and its adapter out."""
    sampler_correction: Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask", "none"] = (
        "token_truncate"
    )
    """Importance weights of learner over sampler, for each token or conversation, capped or set to 0 above the cap."""
    sampler_cap: PositiveFloat = 2.0
    max_staleness: NonNegativeInt = 0
    """Rounds between the adapter that sampled a conversation and the learner; older ones are left out and counted."""

    epochs: PositiveFloat = 1.0
    """Passes over each round's conversations, a whole number."""
    batch_size: PositiveInt = 4
    gradient_accumulation: PositiveInt = 16
    learning_rate: PositiveFloat = 1e-5
    save_every: NonNegativeInt = 5
    """Rounds between checkpoints to resume from; 0 is never."""

    def problems(self) -> list[str]:
        """Returns which rules between fields do not hold."""
        problems = []
        if self.epochs != int(self.epochs):
            problems.append(f"epochs: expected a whole number, got {self.epochs}")
        if self.shard:
            problems.append("shard: sharded models are not supported here")
        return problems

    def updates_per_round(self, num_workers: int = 1) -> int:
        """Returns the optimizer steps of a round.

        Raises:
            ConfigError: a round's conversations do not divide into steps.
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
    """The new adapter and how its training went; means over the first and the last tenth of the rounds."""

    adapter: Adapter
    num_rounds: int
    num_updates: int
    num_conversations: int
    """That were learnt from."""
    num_failed: int
    """Episodes that failed, and were left out."""
    trained_tokens: int
    reward_first: float
    reward_last: float
    kl_last: float | None
    """To the starting adapter, estimated by k3; None where beta is 0."""
    sampler_gap_mean: float
    """Of |learner's log-prob - sampler's|, over all rounds."""
    sampler_gap_max: float
    sampler_kl: float
    """KL of sampler to learner, estimated by k3, over all rounds."""
    rollout_seconds: float
