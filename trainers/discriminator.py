"""The discriminators: real against simulated after every user message (Section 3.4, Eq. 3; protocol of 4.3.3).

Several are trained one after the other in one launch (the iteration's own and its controls), each fresh from the
backbone, with identical settings, so that differences in accuracy are differences of what they read. What is read and
where the log-odds stand is ``rlenv.discriminator_rows``'s; this file holds the settings and the call,
``discriminator_loop`` the loop.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rlenv.discriminator_rows import DiscriminatorLayout, Evidence, View
from rlenv.errors import ConfigError, PhaseError
from rlenv.labelled import LabelledSession, ScoredSession
from rlenv.precision import PRECISIONS, Precision
from rlenv.types import Session
from trainers.ray_train import new_folder, run_training
from trainers.resources import TrainResources
from trainers.schedules import Schedule

VALIDATION = "validation.json"


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
    """``muon`` for a small backbone that is trained whole (``lora_rank`` null); see ``trainers.optimizers``."""
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


def fit_discriminators(
    jobs: Sequence[DiscriminatorJob],
    config: DiscriminatorConfig,
    base_model: str | Path,
    *,
    context_text: Callable[[Session], str | None] | None = None,
    resources: TrainResources = TrainResources(),
    storage_path: str | Path | None = None,
    progress_path: str | Path | None = None,
) -> list[DiscriminatorResult]:
    """Returns the trained discriminators, each written to its ``out_dir``, in the order of ``jobs``.

    Args:
        jobs: what to train on; settings are the same for all.
        config: hyper-parameters.
        base_model: a folder with a causal model and its tokenizer.
        context_text: a session's context as text; must be what serving uses. None reads no context.
        resources: the workers.
        storage_path: checkpoints and logs; None is beside the first ``out_dir``.
        progress_path: progress lines are appended here; their ``job`` counts from 0.

    Raises:
        PhaseError: training failed, or a job lacks one of the classes.
    """
    from trainers.discriminator_loop import Task, train_discriminators

    if not jobs:
        return []
    _check(jobs)
    storage = Path(storage_path) if storage_path else Path(jobs[0].out_dir).resolve().parent

    def pack(items: Sequence[LabelledSession]) -> tuple[tuple[LabelledSession, str | None], ...]:
        return tuple(
            (item, context_text(item.session) if context_text and config.use_context else None) for item in items
        )

    with contextlib.ExitStack() as stack:
        folders = [str(stack.enter_context(new_folder(job.out_dir))) for job in jobs]
        tasks = [Task(job.name, pack(job.train), pack(job.validation), job.blank_user) for job in jobs]
        name = f"discriminator-{Path(jobs[0].out_dir).name}"
        payload = (tasks, config, str(base_model), folders)
        summaries = run_training(train_discriminators, payload, resources, storage, name, progress_path=progress_path)
    return [
        DiscriminatorResult(name=job.name, path=Path(job.out_dir), validation=read_validation(job.out_dir), **summary)
        for job, summary in zip(jobs, summaries, strict=True)
    ]


def read_validation(path: str | Path) -> tuple[ScoredSession, ...]:
    """Returns the validation log-odds saved in a discriminator's folder."""
    return tuple(ScoredSession.model_validate(row) for row in json.loads((Path(path) / VALIDATION).read_text()))


def _check(jobs: Sequence[DiscriminatorJob]) -> None:
    problems = []
    for job in jobs:
        for side, items in (("training", job.train), ("validation", job.validation)):
            real = sum(item.real for item in items)
            if not 0 < real < len(items):
                problems.append(
                    f"discriminator {job.name}: {side} needs real and simulated sessions, "
                    f"got {real} real and {len(items) - real} simulated"
                )
        shared = {i.context_id for i in job.train} & {i.context_id for i in job.validation}
        if shared:
            problems.append(f"discriminator {job.name}: {len(shared)} contexts stand in training and in validation")
    if problems:
        raise PhaseError("\n".join(problems))
