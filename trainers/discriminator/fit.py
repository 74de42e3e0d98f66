"""The discriminators: real against simulated after every user message (Section 3.4, Eq. 3; protocol of 4.3.3).

Several are trained one after the other in one launch (the iteration's own and its controls), each fresh from the
backbone, with identical settings, so that differences in accuracy are differences of what they read. What is read and
where the log-odds stand is ``rlenv.discriminator.rows``'s; this file holds the settings and the call,
``trainers.discriminator.loop`` the loop.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Unpack

from rlenv.core.errors import PhaseError
from rlenv.core.types import Session
from rlenv.discriminator.labelled import LabelledSession, ScoredSession
from trainers.backend.fit import TrainOptions, train_to_folder
from trainers.discriminator.config import DiscriminatorConfig, DiscriminatorJob, DiscriminatorResult

VALIDATION = "validation.json"


def fit_discriminators(
    jobs: Sequence[DiscriminatorJob],
    config: DiscriminatorConfig,
    base_model: str | Path,
    *,
    context_text: Callable[[Session], str | None] | None = None,
    **options: Unpack[TrainOptions],
) -> list[DiscriminatorResult]:
    """Returns the trained discriminators, each written to its ``out_dir``, in the order of ``jobs``.

    Args:
        jobs: what to train on; settings are the same for all.
        config: hyper-parameters.
        base_model: a folder with a causal model and its tokenizer.
        context_text: a session's context as text; must be what serving uses. None reads no context.
        options: see ``TrainOptions``; ``storage_path`` goes by the first job, progress lines have a ``job`` from 0.

    Raises:
        PhaseError: training failed, or a job lacks one of the classes.
    """
    from trainers.discriminator.loop import Task, train_discriminators

    if not jobs:
        return []
    _check(jobs)

    def pack(items: Sequence[LabelledSession]) -> tuple[tuple[LabelledSession, str | None], ...]:
        return tuple(
            (item, context_text(item.session) if context_text and config.use_context else None) for item in items
        )

    tasks = [Task(job.name, pack(job.train), pack(job.validation), job.blank_user) for job in jobs]
    payload = (tasks, config, str(base_model))
    out_dirs = [job.out_dir for job in jobs]
    summaries = train_to_folder(train_discriminators, "discriminator", payload, out_dirs, **options)
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
