"""The small Llama: a byte-level BPE tokenizer and a causal model of a few million parameters, made from sessions alone.

For runs without a downloaded model: an iteration on a laptop, the tests, the tutorial. What comes out is an ordinary
checkpoint (Llama class, ChatML template) that LoRA, the discriminator and every engine load like a large one. Whole
conversations are learnt in ``ChatFormat``'s layout, both seats, so that fine-tuning has something to stand on. No part
of the paper.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rlenv.errors import ConfigError, PhaseError
from rlenv.precision import Precision
from trainers.ray_train import new_folder, run_training
from trainers.resources import TrainResources
from trainers.schedules import Schedule
from trainers.sft import SftExample


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


def fit_base_model(
    examples: Sequence[SftExample],
    config: PretrainConfig,
    out_dir: str | Path,
    *,
    resources: TrainResources = TrainResources(),
    storage_path: str | Path | None = None,
    progress_path: str | Path | None = None,
) -> PretrainResult:
    """Returns a small chat model trained from nothing, written to ``out_dir`` (which must not exist).

    Args:
        examples: conversations with their system texts; give each once a seat to have both learnt.
        config: shape and training.
        out_dir: an ordinary transformers checkpoint with its tokenizer; appears whole or not at all.
        resources: the workers.
        storage_path: checkpoints and logs; None is beside ``out_dir``.
        progress_path: progress lines are appended here.

    Raises:
        PhaseError: training failed, or the conversations do not fill one batch.
    """
    from trainers.pretrain_loop import train_base_model

    if not examples:
        raise PhaseError("pretrain: no conversations to learn from")
    storage = Path(storage_path) if storage_path else Path(out_dir).resolve().parent
    with new_folder(out_dir) as folder:
        payload = (tuple(examples), config, str(folder))
        name = f"pretrain-{Path(out_dir).name}"
        summary = run_training(train_base_model, payload, resources, storage, name, progress_path=progress_path)
    return PretrainResult(path=Path(out_dir), **summary)
