"""Trains discriminators to tell real from simulated after every user message (Section 3.4, Eq. 3; Section 4.3.3).

One launch trains several, one after the other: an iteration's own discriminator and its controls. Each starts afresh
from the backbone, with the same settings, so that a difference in accuracy can only come from what they read. The token
layout is in ``rlenv.discriminator.rows``, the training loop in ``trainers.discriminator.loop``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Unpack

from rlenv.core.errors import DataError, PhaseError
from rlenv.core.files import damaged
from rlenv.core.types import Session
from rlenv.discriminator.labelled import LabelledSession, ScoredSession
from trainers.backend.fit import TrainOptions, train_to_folder
from trainers.discriminator.config import DiscriminatorConfig, DiscriminatorJob, DiscriminatorResult

VALIDATION = "validation.json"
OUT_OF_FOLD = "out_of_fold.json"
"""Kind ``likelihood``: the training sessions' log-odds by regressions that were not fitted on them."""


def fit_discriminators(
    jobs: Sequence[DiscriminatorJob],
    config: DiscriminatorConfig,
    base_model: str | Path,
    *,
    context_text: Callable[[Session], str | None] | None = None,
    reader: str | Path | None = None,
    **options: Unpack[TrainOptions],
) -> list[DiscriminatorResult]:
    """Returns the trained discriminators, each written to its ``out_dir``, in the order of ``jobs``.

    Args:
        jobs: the discriminators to train and their data.
        config: hyper-parameters, the same for all.
        base_model: a folder with a causal language model and its tokenizer.
        context_text: returns a session's context as text; must be the function used in serving. None reads no context.
        reader: kind ``likelihood``: the adapter of the simulator that the sessions are read with, on ``base_model``.
        options: see ``TrainOptions``; the default ``storage_path`` is that of the first job. Progress lines have the
            job's number as ``job``, from 0.

    Raises:
        PhaseError: training failed, a job has only one class, or its training and validation share contexts.
    """
    from trainers.discriminator.loop import Task, train_discriminators

    if not jobs:
        return []
    _check(jobs)

    def pack(items: Sequence[LabelledSession]) -> tuple[tuple[LabelledSession, str | None], ...]:
        reads_context = config.use_context or reader is not None
        return tuple((item, context_text(item.session) if context_text and reads_context else None) for item in items)

    tasks = [Task(job.name, pack(job.train), pack(job.validation), job.blank_user) for job in jobs]
    out_dirs = [job.out_dir for job in jobs]
    if config.kind == "likelihood":
        from trainers.discriminator.likelihood import train_likelihood

        if reader is None:
            raise PhaseError("discriminator.kind: 'likelihood' reads with a simulator's adapter, and none was given")
        payload: tuple[Any, ...] = (tasks, config, str(base_model), str(reader))
        summaries = train_to_folder(train_likelihood, "discriminator", payload, out_dirs, **options)
    else:
        payload = (tasks, config, str(base_model))
        summaries = train_to_folder(train_discriminators, "discriminator", payload, out_dirs, **options)
    return [
        DiscriminatorResult(name=job.name, path=Path(job.out_dir), validation=read_validation(job.out_dir), **summary)
        for job, summary in zip(jobs, summaries, strict=True)
    ]


def read_validation(path: str | Path, name: str = VALIDATION) -> tuple[ScoredSession, ...]:
    """Returns the validation log-odds saved in a discriminator's folder, or those out of fold."""
    file = Path(path) / name
    try:
        return tuple(ScoredSession.model_validate(row) for row in json.loads(file.read_bytes()))
    except (OSError, TypeError, ValueError) as error:
        raise DataError([damaged(file, error)]) from None


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
            problems.append(f"discriminator {job.name}: {len(shared)} contexts are in both training and validation")
    if problems:
        raise PhaseError("\n".join(problems))
