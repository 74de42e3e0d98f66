"""The settings of discriminator training (Eq. 3), and the records that go in and come out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from rlenv.core.settings import Settings, settings
from rlenv.discriminator.labelled import LabelledSession, ScoredSession
from rlenv.discriminator.rows import DiscriminatorLayout, Evidence, View
from rlenv.models.hardware import Precision
from trainers.backend.config import Schedule


@settings
class DiscriminatorConfig(Settings):
    """Discriminator training. The paper gives the numbers of sessions (4.3.3); the rest is ours, measured on ESConv."""

    num_train_sessions: PositiveInt = 1600
    """Real and simulated together."""
    num_validation_sessions: PositiveInt = 400
    """Real and simulated together; their contexts are not in training."""
    epochs: PositiveInt = 1
    batch_size: PositiveInt = 8
    """Sessions a step and worker."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """``muon`` for a small backbone that is trained whole (``lora_rank`` null); see ``backend.optimization``."""
    learning_rate: PositiveFloat = 2e-4
    schedule: Schedule = "linear"
    warmup: NonNegativeFloat = 0.1
    """Below 1 a share of the steps, else a number of them."""
    weight_decay: NonNegativeFloat = 0.0
    max_grad_norm: PositiveFloat = 1.0
    lora_rank: PositiveInt | None = 8
    """None trains the whole backbone (small ones)."""
    lora_alpha: PositiveInt = 16
    dropout: float = Field(default=0.0, ge=0, lt=1)
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
    max_tokens: PositiveInt = 32_768
    """Longer sessions are cut after a whole turn. The context comes first, so with ``use_context`` this is more than
    its budget (``context.budget_tokens``)."""
    dtype: Precision = "auto"
    """Of the backbone's computation; the score head and the adapter's weights are float32 always. "auto": bfloat16
    where the hardware has it."""
    batch_tokens: PositiveInt = 16384
    """Padded tokens in one forward pass; a batch above it is split and its gradients are added up."""
    gradient_checkpointing: bool = False
    save_every: NonNegativeInt = 100
    """Steps between checkpoints to resume from; 0 is only between discriminators."""
    seed: int = 0

    def problems(self) -> list[str]:
        """Returns which rules between fields do not hold."""
        if self.optimizer == "muon" and self.lora_rank:
            return ["optimizer: 'muon' trains a whole backbone; set discriminator.lora_rank to null"]
        return []

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
