"""A worker's place in a training run, as its loop sees it: under Ray Train, or in this process without it."""

from __future__ import annotations

import contextlib
import dataclasses
import random
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rlenv.core.progress import Progress


@dataclass(frozen=True)
class Worker:
    """One worker's place in the run, as its loop sees it; as it is, of a run in this process, without Ray."""

    scratch: Path
    """A folder that every worker of the run sees, kept across restarts and removed after success."""
    progress: Progress = dataclasses.field(default_factory=lambda: Progress(None, "local"))
    rank: int = 0
    world_size: int = 1
    device: str = "cpu"

    def report(self, metrics: dict[str, float], checkpoint: str | Path | None = None) -> None:
        """Reports a step; every rank must call it, and rank 0 alone brings the checkpoint's folder, which is copied."""

    @contextlib.contextmanager
    def resume(self) -> Iterator[Path | None]:
        """Gives the folder of the last checkpoint, None at a fresh start."""
        yield None

    def save_checkpoint(self, metrics: dict[str, float], write: Callable[[Path], None]) -> None:
        """Reports a step with the checkpoint that ``write`` puts into an empty folder, on rank 0 alone."""
        if self.rank > 0:
            self.report(metrics)
            return
        with tempfile.TemporaryDirectory(dir=self.scratch, ignore_cleanup_errors=True) as folder:
            write(Path(folder))
            self.report(metrics, folder)


def seed_everything(seed: int) -> None:
    """Seeds Python's, numpy's and torch's generators of this process."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
