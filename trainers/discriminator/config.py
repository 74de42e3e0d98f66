"""The settings of discriminator training (Eq. 3), and the records that go in and come out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rlenv.core.errors import ConfigError
from rlenv.discriminator.labelled import LabelledSession, ScoredSession
from rlenv.discriminator.rows import DiscriminatorLayout, Evidence, View
from rlenv.models.hardware import PRECISIONS, Precision
from trainers.backend.optimization import Schedule


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Discriminator training. The paper gives the numbers of sessions (4.3.3); the rest is ours, measured on ESConv."""

    num_train_sessions: int = 1600
    """Real and simulated together."""
    num_validation_sessions: int = 400
    """Real and simulated together; their contexts are not in training."""
    epochs: int = 1
    batch_size: int = 8
    """Sessions a step and worker."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """``muon`` for a small backbone that is trained whole (``lora_rank`` null); see ``backend.optimization``."""
    learning_rate: float = 2e-4
    schedule: Schedule = "linear"
    warmup: float = 0.1
    """Below 1 a share of the steps, else a number of them."""
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    lora_rank: int | None = 8
    """None trains the whole backbone (small ones)."""
    lora_alpha: int = 16
    dropout: float = 0.0
    """Before the score head."""
    evidence: Evidence = "last"
    """``last``: the head at a message's end alone, as in the paper; ``sum``: at every token, added up. For a small
    backbone that is trained whole."""
    average: Literal["session", "turn"] = "session"
    """``session``: mean over a session's turns, then over sessions. A session is one draw of the data, its turns are
    not independent of one another; under ``turn`` one 50-turn session would outweigh ten short ones in its batch."""
    view: View = "full"
    """``full`` reads both seats, ``user_only`` the user's messages alone."""
    use_context: bool = True
    """Read the user context as the system message (Eq. 2's c)."""
    max_tokens: int = 8192
    """Longer sessions are cut after a whole turn."""
    dtype: Precision = "auto"
    """Of the backbone's computation; the score head and the adapter's weights are float32 always. "auto": bfloat16
    where the hardware has it."""
    batch_tokens: int = 16384
    """Padded tokens in one forward pass; a batch above it is split and its gradients are added up."""
    gradient_checkpointing: bool = False
    save_every: int = 100
    """Steps between checkpoints to resume from; 0 is only between discriminators."""
    seed: int = 0

    def __post_init__(self) -> None:
        problems = [
            f"discriminator.{name}: expected above 0, got {getattr(self, name)}"
            for name in ("epochs", "batch_size", "learning_rate", "max_grad_norm", "max_tokens", "batch_tokens")
            if getattr(self, name) <= 0
        ]
        if self.dtype not in PRECISIONS:
            problems.append(f"discriminator.dtype: expected one of {', '.join(PRECISIONS)}, got {self.dtype!r}")
        if self.optimizer not in ("adamw", "muon"):
            problems.append(f"discriminator.optimizer: expected 'adamw' or 'muon', got {self.optimizer!r}")
        if self.optimizer == "muon" and self.lora_rank:
            problems.append(
                "discriminator.optimizer: 'muon' trains a whole backbone; set discriminator.lora_rank to null"
            )
        if self.evidence not in ("last", "sum"):
            problems.append(f"discriminator.evidence: expected 'last' or 'sum', got {self.evidence!r}")
        if self.average not in ("session", "turn"):
            problems.append(f"discriminator.average: expected 'session' or 'turn', got {self.average!r}")
        if problems:
            raise ConfigError("\n".join(problems))

    def layout(self, *, blank_user: bool = False) -> DiscriminatorLayout:
        """Returns what a discriminator of these settings reads."""
        return DiscriminatorLayout(self.view, self.use_context, blank_user, self.max_tokens)


@dataclass(frozen=True)
class DiscriminatorJob:
    """One discriminator to train."""

    name: str
    out_dir: Path
    """Its checkpoint folder; must not exist."""
    train: Sequence[LabelledSession]
    validation: Sequence[LabelledSession]
    blank_user: bool = False
    """The leak control: user messages become empty."""


@dataclass(frozen=True)
class DiscriminatorResult:
    """A trained discriminator and its validation."""

    name: str
    path: Path
    validation: tuple[ScoredSession, ...]
    num_train: int
    num_cut: int
    """Training and validation sessions of which turns were cut at ``max_tokens``."""
    loss_first: float
    loss_last: float
    """Mean of the last tenth of the steps."""
