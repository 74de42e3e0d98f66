"""What every ``fit_*`` function does around its loop: run it on Ray Train and publish the result folder atomically."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

from rlenv.core.files import new_folder
from trainers.backend.config import TrainResources
from trainers.backend.ray_train import Loop, Workers, run_training


class TrainOptions(TypedDict, total=False):
    """The keyword arguments of every ``fit_*`` function: where it runs and what it writes besides its result."""

    resources: TrainResources
    """The workers; by default one, on the CPU."""
    storage_path: str | Path | None
    """Folder for checkpoints and logs, visible to all workers; None uses the parent folder of ``out_dir``."""
    progress_path: str | Path | None
    """File to which progress lines are appended (``rlenv.core.progress``); None writes none."""
    workers: Workers | None
    """Workers that are kept between trainings, in place of new ones; their resources are their own."""


def train_to_folder(
    loop: Loop,
    kind: str,
    payload: tuple[Any, ...],
    out_dir: str | Path | Sequence[str | Path],
    *,
    resources: TrainResources = TrainResources(),
    storage_path: str | Path | None = None,
    progress_path: str | Path | None = None,
    workers: Workers | None = None,
) -> Any:
    """Returns the result of ``loop((*payload, folder), worker)`` on rank 0; ``folder`` becomes ``out_dir`` on success.

    Args:
        loop: see ``run_training``.
        kind: the kind of training, such as ``sft``; the run's name is ``kind`` and the name of ``out_dir``.
        payload: what the loop takes; picklable.
        out_dir: must not exist. With several, ``folder`` is a list in the same order.
        resources: see ``TrainOptions``.
        storage_path: see ``TrainOptions``.
        progress_path: see ``TrainOptions``.
        workers: see ``TrainOptions``.

    Raises:
        PhaseError: ``out_dir`` exists, or training failed.
    """
    targets = [out_dir] if isinstance(out_dir, (str, Path)) else list(out_dir)
    first = Path(targets[0])
    with contextlib.ExitStack() as stack:
        folders = [str(stack.enter_context(new_folder(target))) for target in targets]
        return run_training(
            loop,
            (*payload, folders[0] if isinstance(out_dir, (str, Path)) else folders),
            resources,
            storage_path or first.resolve().parent,
            f"{kind}-{first.name}",
            progress_path=progress_path,
            workers=workers,
        )


def last_tenth_mean(values: Sequence[float]) -> float:
    """Returns the mean over the last tenth of a run's steps, and over at least one step.

    >>> last_tenth_mean([9.0] * 18 + [1.0, 2.0]), last_tenth_mean([4.0, 3.0])
    (1.5, 3.0)
    """
    tail = values[-max(1, len(values) // 10) :]
    return float(sum(tail) / len(tail))
