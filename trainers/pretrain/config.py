"""The settings of the small Llama's pretraining, and the record of its result."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from rlenv.core.settings import Settings, settings
from rlenv.models.hardware import Precision
from trainers.backend.config import Schedule


@settings
class PretrainConfig(Settings):
    """Shape and training settings of the small model."""

    start: str | None = None
    """A model to train further, with its tokenizer: a folder, or "population-llama". Its shape takes the place of the
    settings of shape. None begins with random weights."""
    vocab_size: int = Field(default=3072, ge=300)
    """The 256 bytes, the special tokens and the merges together."""
    hidden_size: PositiveInt = 192
    num_layers: PositiveInt = 4
    num_heads: PositiveInt = 3
    intermediate_size: PositiveInt = 512
    max_positions: PositiveInt = 2048
    """Positions the model accepts."""
    block_tokens: PositiveInt = 1536
    """Length of the packed training sequences; at least as long as most conversations with their context."""
    epochs: PositiveFloat = 1.0
    batch_tokens: PositiveInt = 1536
    """Tokens per step and worker. Small, because in a short training more steps help more than larger batches."""
    other_weight: float = Field(default=1.0, ge=0, le=1)
    """Weight of the loss on tokens that the trained seat does not say: the context and the other seat's messages. Where
    they count little, a small model learns the seat's own words better."""
    learning_rate: PositiveFloat = 5e-3
    """Peak learning rate of Muon (scaled to AdamW's step size) and of AdamW."""
    schedule: Schedule = "wsd"
    warmup: NonNegativeFloat = 0.05
    weight_decay: NonNegativeFloat = 0.1
    max_grad_norm: PositiveFloat = 1.0
    dtype: Precision = "auto"
    """Precision of the computation; weights are float32. "auto" is bfloat16 where the hardware supports it."""
    save_every: NonNegativeInt = 100
    """Steps between checkpoints to resume from; 0 saves none."""
    seed: int = 0

    def problems(self) -> list[str]:
        """Returns the violated rules across fields, one line each."""
        problems = []
        if self.hidden_size % self.num_heads:
            problems.append(f"hidden_size: {self.hidden_size} is not a multiple of num_heads {self.num_heads}")
        if self.block_tokens > self.max_positions:
            problems.append(f"block_tokens: {self.block_tokens} exceeds max_positions {self.max_positions}")
        if self.batch_tokens < self.block_tokens:
            problems.append(f"batch_tokens: {self.batch_tokens} is below block_tokens {self.block_tokens}")
        return problems


@dataclass(frozen=True)
class PretrainResult:
    """The checkpoint and how its training went."""

    path: Path
    num_parameters: int
    num_tokens: int
    """Tokens of one epoch."""
    loss_last: float
    """Nats per token, mean over the last tenth of the steps."""
    tokens_per_second: float
