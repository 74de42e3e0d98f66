"""The settings of the small Llama's pretraining, and the record that comes out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rlenv.core.errors import ConfigError
from rlenv.models.hardware import Precision
from trainers.backend.optimization import Schedule


@dataclass(frozen=True)
class PretrainConfig:
    """Shape and training of the small model."""

    vocab_size: int = 3072
    hidden_size: int = 192
    num_layers: int = 4
    num_heads: int = 3
    intermediate_size: int = 512
    max_positions: int = 2048
    """Positions the model accepts."""
    block_tokens: int = 1536
    """Length of the packed training sequences; at least as long as most conversations with their context."""
    epochs: float = 1.0
    batch_tokens: int = 1536
    """Tokens a step and worker. Small: where minutes are few, more steps teach more than steadier ones."""
    learning_rate: float = 5e-3
    """Of Muon (scaled to AdamW's step size) and of AdamW."""
    schedule: Schedule = "wsd"
    warmup: float = 0.05
    weight_decay: float = 0.1
    max_grad_norm: float = 1.0
    dtype: Precision = "auto"
    """Of the computation; weights are float32. "auto": bfloat16 where the hardware has it."""
    save_every: int = 100
    """Steps between checkpoints to resume from; 0 is never."""
    seed: int = 0

    def __post_init__(self) -> None:
        problems = []
        if self.hidden_size % self.num_heads:
            problems.append(f"pretrain.hidden_size: {self.hidden_size} is no multiple of num_heads {self.num_heads}")
        if self.block_tokens > self.max_positions:
            problems.append(f"pretrain.block_tokens: {self.block_tokens} exceeds max_positions {self.max_positions}")
        if self.batch_tokens < self.block_tokens:
            problems.append(f"pretrain.batch_tokens: {self.batch_tokens} is below block_tokens {self.block_tokens}")
        if self.vocab_size < 300:
            problems.append(
                f"pretrain.vocab_size: expected 300 or more (256 bytes, specials, merges), got {self.vocab_size}"
            )
        if problems:
            raise ConfigError("\n".join(problems))


@dataclass(frozen=True)
class PretrainResult:
    """The checkpoint and how its training went."""

    path: Path
    num_parameters: int
    num_tokens: int
    """Of one epoch."""
    loss_last: float
    """Nats a token, mean of the last tenth of the steps."""
    tokens_per_second: float
