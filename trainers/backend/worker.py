"""A worker's place in a training run, as its loop sees it, with or without Ray Train."""

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
    """One worker's place in a run. This class serves a run in the current process, without Ray."""

    scratch: Path
    """A folder visible to every worker of the run, kept across restarts and removed after success."""
    progress: Progress = dataclasses.field(default_factory=lambda: Progress(None, "local"))
    rank: int = 0
    world_size: int = 1
    device: str = "cpu"

    def report(self, metrics: dict[str, float], checkpoint: str | Path | None = None) -> None:
        """Reports a step. Every rank must call it; only rank 0 passes a checkpoint folder, which is copied."""

    @contextlib.contextmanager
    def resume(self) -> Iterator[Path | None]:
        """Yields the folder of the last checkpoint; None at a fresh start."""
        yield None

    def save_checkpoint(self, metrics: dict[str, float], write: Callable[[Path], None]) -> None:
        """Reports a step with a checkpoint: on rank 0, ``write`` is called to write it into an empty folder."""
        if self.rank > 0:
            self.report(metrics)
            return
        with tempfile.TemporaryDirectory(dir=self.scratch, ignore_cleanup_errors=True) as folder:
            write(Path(folder))
            self.report(metrics, folder)


def seed_everything(seed: int) -> None:
    """Seeds this process's random number generators: Python's, numpy's and torch's."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
