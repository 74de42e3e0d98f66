"""Fits discriminators of kind ``likelihood``: each worker reads its share, rank 0 fits and validates."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rlenv.core.log_odds import PRIOR_LOG_ODDS
from rlenv.discriminator.labelled import LabelledSession
from rlenv.discriminator.likelihood import CARD, prefix_texts, turn_features
from rlenv.discriminator.reading import Reader, ReadRow, read_row
from rlenv.discriminator.regressions import LikelihoodModel, fit_likelihood
from rlenv.models.hardware import resolve_precision
from trainers.backend.worker import Worker, seed_everything

if TYPE_CHECKING:
    from trainers.discriminator.config import DiscriminatorConfig
    from trainers.discriminator.loop import Task


AT_ONCE = 64
"""Sessions that are given to the reader at once, which batches them on a GPU."""


def train_likelihood(
    payload: tuple[Sequence[Task], DiscriminatorConfig, str, str, Sequence[str]], worker: Worker
) -> list[dict[str, Any]]:
    """Returns one summary per task; rank 0 writes the task folders."""
    tasks, config, base_model, adapter, folders = payload
    seed_everything(config.seed)
    dtype = "float32" if worker.device == "cpu" else resolve_precision(config.dtype, worker.device)
    reader = Reader.load(base_model, adapter, device=worker.device, dtype=dtype)
    summaries = []
    known: dict[ReadRow, np.ndarray] = {}  # jobs share sessions
    for index, (task, folder) in enumerate(zip(tasks, folders, strict=True)):
        items = [*task.train, *task.validation]
        rows = [
            read_row(
                reader.chat,
                item.session.messages,
                system or "",
                config.max_tokens,
                view=config.view,
                blank_user=task.blank_user,
            )
            for item, system in items
        ]
        x = _read_all(reader, rows, known, worker, index, len(tasks))
        summaries.append(_summary(task, rows))
        if worker.rank == 0:
            card = {"base_model": base_model, "adapter": adapter, "dtype": dtype, "max_tokens": config.max_tokens,
                    "view": config.view, "blank_user": task.blank_user}  # fmt: skip
            _fit_and_save(task, rows, x, card, Path(folder), summaries[-1])
    return summaries


def _read_all(
    reader: Reader, rows: Sequence[ReadRow], known: dict[ReadRow, np.ndarray], worker: Worker, job: int, num_jobs: int
) -> list[np.ndarray]:
    """Returns the features [T, F] of every row; the workers read in turn and exchange them in files.

    Features that are ``known`` are not read again; those that were read are added.
    """
    worker.progress.begin()
    mine = range(worker.rank, len(rows), worker.world_size)
    found: dict[int, np.ndarray] = {}
    for start in range(0, len(mine), AT_ONCE):
        part = [i for i in mine[start : start + AT_ONCE] if rows[i].ends]
        new = list(dict.fromkeys(rows[i] for i in part if rows[i] not in known))
        for row, reading in zip(new, reader.read(new), strict=True):
            known[row] = turn_features(row, reading.own)
        found.update({i: known[rows[i]] for i in part})
        done = min(len(mine), start + AT_ONCE)
        worker.progress.write(job * len(mine) + done, num_jobs * len(mine), job=job)
    if worker.world_size > 1:
        import torch

        path = worker.scratch / f"features-{job}-{worker.rank}.npz"
        arrays: dict[str, Any] = {str(i): x for i, x in found.items()}
        np.savez(path, **arrays)
        torch.distributed.barrier()
        for rank in range(worker.world_size):
            with np.load(worker.scratch / f"features-{job}-{rank}.npz") as part:
                found.update({int(i): part[i] for i in part.files})
        known.update({rows[i]: features for i, features in found.items()})
    size = next(iter(found.values())).shape[1] if found else 0
    return [found.get(i, np.zeros((0, size), np.float32)) for i in range(len(rows))]


def _summary(task: Task, rows: Sequence[ReadRow]) -> dict[str, Any]:
    num_train = sum(bool(row.ends) for row in rows[: len(task.train)])
    num_cut = sum(len(row.ends) < row.num_turns for row in rows)
    return {"num_train": num_train, "num_cut": num_cut, "loss_first": float(np.log(2)), "loss_last": 0.0}


def _fit_and_save(
    task: Task,
    rows: Sequence[ReadRow],
    x: Sequence[np.ndarray],
    card: dict[str, Any],
    folder: Path,
    summary: dict[str, Any],
) -> None:
    usable = [i for i in range(len(task.train)) if rows[i].ends]
    items = [item for item, _ in task.train]
    model, out_of_fold = fit_likelihood(
        [x[i] for i in usable],
        [prefix_texts(rows[i].texts) for i in usable],
        [items[i].real for i in usable],
        [items[i].context_id for i in usable],
        [items[i].session.session_id for i in usable],
    )
    folder.mkdir(exist_ok=True)
    model.save(folder)
    held_out = [_scored(items[i], rows[i], found) for i, found in zip(usable, out_of_fold, strict=True)]
    (folder / "out_of_fold.json").write_text(json.dumps(held_out))
    start = len(task.train)
    validation = [
        _scored(item, rows[start + i], _log_odds(model, x[start + i], rows[start + i]))
        for i, (item, _) in enumerate(task.validation)
    ]
    (folder / "validation.json").write_text(json.dumps(validation))
    (folder / CARD).write_text(json.dumps(card, indent=1, sort_keys=True))
    real = np.concatenate([np.full(len(found), items[i].real) for i, found in zip(usable, out_of_fold, strict=True)])
    flat = np.concatenate(out_of_fold)
    summary["loss_last"] = float(np.logaddexp(0, -np.where(real, flat, -flat)).mean())


def _log_odds(model: LikelihoodModel, x: np.ndarray, row: ReadRow) -> np.ndarray:
    return model.log_odds(x, prefix_texts(row.texts)) if row.ends else np.zeros(0)


def _scored(item: LabelledSession, row: ReadRow, log_odds: np.ndarray) -> dict[str, Any]:
    """Returns a ``ScoredSession`` as JSON."""
    return {
        "session_id": item.session.session_id,
        "context_id": item.context_id,
        "real": item.real,
        "log_odds": [PRIOR_LOG_ODDS, *map(float, log_odds)],
        "num_turns": row.num_turns,
    }
