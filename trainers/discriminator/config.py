"""The settings of discriminator training (Eq. 3), and the records of its input and result."""

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

MIN_LEARNING_CURVE = 4
"""Two contexts with a real and a simulated session each: with fewer, nothing can be fitted out of fold."""


@settings
class DiscriminatorConfig(Settings):
    """Discriminator training. The numbers of sessions are the paper's (4.3.3); the rest was tuned on ESConv."""

    kind: Literal["classifier", "likelihood"] = "classifier"
    """``classifier``, as in the paper: a token classifier on ``backbone``. ``likelihood``: regressions on what the
    simulator's own model thinks of the user's words (``rlenv.discriminator.likelihood``); it reads ``max_tokens``,
    ``dtype`` and the numbers of sessions, and no other setting here."""
    num_train_sessions: PositiveInt = 1600
    """Real and simulated together."""
    num_validation_sessions: PositiveInt = 400
    """Real and simulated together; their contexts do not occur in training."""
    num_control_sessions: int | None = Field(default=None, ge=2)
    """At most so many sessions of each control in training, and as many in validation; None is no bound. A power
    control with fewer sessions is a harder test of the discriminator."""
    learning_curve: tuple[PositiveInt, ...] = ()
    """Numbers of training sessions of further discriminators, which are validated on the same sessions. An accuracy
    depends on how many sessions its judge has seen: runs of different size are compared at equal numbers."""
    epochs: PositiveInt = 1
    batch_size: PositiveInt = 8
    """Sessions per step and worker."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """``muon`` is for a small backbone trained in full (``lora_rank`` null); see ``trainers.backend.optimization``."""
    learning_rate: PositiveFloat = 2e-4
    schedule: Schedule = "linear"
    warmup: NonNegativeFloat = 0.1
    """Warm-up: a share of the steps if below 1, otherwise a number of steps."""
    weight_decay: NonNegativeFloat = 0.0
    max_grad_norm: PositiveFloat = 1.0
    lora_rank: PositiveInt | None = 8
    """Rank of the LoRA adapter; None trains the whole backbone (for small ones)."""
    lora_alpha: PositiveInt = 16
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout before the score head."""
    evidence: Evidence = "last"
    """``last`` applies the head at a message's last token only, as in the paper. ``sum`` adds up the head's output at
    every token; it is for a small backbone trained in full."""
    average: Literal["session", "turn"] = "session"
    """``session``: mean over a session's turns, then over sessions. The turns of a session are not independent samples;
    with ``turn``, one session of 50 turns would outweigh ten short ones in its batch."""
    view: View = "full"
    """``full`` reads both seats, ``user_only`` only the user's messages."""
    use_context: bool = True
    """Read the user context as the system message (Eq. 2's c)."""
    max_tokens: PositiveInt = 32_768
    """Longer sessions are cut after a whole turn. The context comes first, so with ``use_context`` this must exceed
    the context's budget (``context.budget_tokens``)."""
    dtype: Precision = "auto"
    """Precision of the backbone's computation; the score head and the adapter's weights are always float32. "auto" is
    bfloat16 where the hardware supports it."""
    batch_tokens: PositiveInt = 16384
    """Padded tokens in one forward pass; a larger batch is split and its gradients are accumulated."""
    gradient_checkpointing: bool = False
    save_every: NonNegativeInt = 100
    """Steps between checkpoints to resume from; 0 saves only after each finished discriminator."""
    seed: int = 0

    def problems(self) -> list[str]:
        """Returns the violated rules across fields, one line each."""
        problems = []
        if self.optimizer == "muon" and self.lora_rank:
            problems.append("optimizer: 'muon' trains a whole backbone; set discriminator.lora_rank to null")
        if wrong := [n for n in self.learning_curve if not MIN_LEARNING_CURVE <= n < self.num_train_sessions]:
            problems.append(
                f"learning_curve: expected numbers from {MIN_LEARNING_CURVE} to below num_train_sessions "
                f"({self.num_train_sessions}), got {', '.join(map(str, wrong))}"
            )
        return problems

    def layout(self, *, blank_user: bool = False) -> DiscriminatorLayout:
        """Returns the token layout that a discriminator with these settings reads."""
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
    """Train the leak control: user messages are blanked."""


@dataclass(frozen=True)
class DiscriminatorResult:
    """A trained discriminator and its validation."""

    name: str
    path: Path
    validation: tuple[ScoredSession, ...]
    num_train: int
    num_cut: int
    """Training and validation sessions that were cut at ``max_tokens``."""
    loss_first: float
    loss_last: float
    """Mean over the last tenth of the steps."""
