"""What every training phase of a run shares: its workers, its seed, and where checkpoints, progress and figures go.

training/              checkpoints of a phase that is under way
logs/NAME.jsonl        its progress, a line a logged step
logs/NAME-summary.json its figures, once it is over
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

from launch.run.directory import TRAINING, RunDirectory
from launch.run.progress import training
from rlenv.core.files import write_json
from rlenv.core.progress import Line
from trainers.backend.config import TrainResources

C = TypeVar("C")


@dataclass(frozen=True)
class Training:
    """The training phases of one run."""

    directory: RunDirectory
    resources: TrainResources
    seed: int

    def seeded(self, settings: C) -> C:
        """Returns a training phase's settings with the run's seed."""
        return replace(settings, seed=self.seed)  # type: ignore[type-var]

    @contextmanager
    def phase(
        self, title: str, name: str, *, keep: bool = False, tell: Callable[[list[Line]], None] = lambda _: None
    ) -> Iterator[dict[str, Any]]:
        """Gives the keyword arguments that every ``fit_*`` function takes from its run; draws its progress meanwhile.

        Args:
            title: of the progress bar.
            name: of the progress file in ``logs/``.
            keep: whether an earlier attempt's progress lines stay.
            tell: is given the progress lines as they come.
        """
        with training(title, self.directory.path(f"logs/{name}.jsonl"), keep=keep, tell=tell) as progress:
            yield {
                "resources": self.resources,
                "storage_path": self.directory.path(TRAINING),
                "progress_path": progress,
            }

    def write_summary(self, name: str, result: Any) -> None:
        """Writes the numbers of a ``fit_*`` function's result."""
        numbers = {k: v for k, v in asdict(result).items() if isinstance(v, int | float)}
        write_json(self.directory.path(f"logs/{name}-summary.json"), numbers)

    def read_summary(self, name: str) -> dict[str, float]:
        """Returns the figures that a training phase left, {} where it had none."""
        path = self.directory.path(f"logs/{name}-summary.json")
        return json.loads(path.read_text()) if path.exists() else {}
