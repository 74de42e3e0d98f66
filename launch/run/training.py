"""What all training phases of a run share: workers, seed, and the places of checkpoints, progress and results.

training/              checkpoints of a phase in progress
logs/NAME.jsonl        its progress, one line per logged step
logs/NAME-summary.json its numbers, written at its end
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

from launch.run.directory import TRAINING, RunDirectory
from launch.run.progress import training
from rlenv.core.files import are_numbers, read_json, write_json
from rlenv.core.progress import Line
from trainers.backend.config import TrainResources
from trainers.backend.worker_group import WorkerGroup

C = TypeVar("C")


@dataclass(frozen=True)
class Training:
    """The training phases of one run."""

    directory: RunDirectory
    resources: TrainResources
    seed: int
    workers: WorkerGroup | None = None
    """Workers that are kept between phases; None starts new ones for each."""

    def seeded(self, settings: C) -> C:
        """Returns a phase's settings with the run's seed."""
        return replace(settings, seed=self.seed)  # type: ignore[type-var]

    @contextmanager
    def phase(
        self, title: str, name: str, *, keep: bool = False, on_lines: Callable[[list[Line]], None] = lambda _: None
    ) -> Iterator[dict[str, Any]]:
        """Yields the keyword arguments that every ``fit_*`` function takes from its run, and draws its progress.

        Args:
            title: the progress bar's title.
            name: the name of the progress file in ``logs/``.
            keep: whether to keep the progress lines of an earlier attempt.
            on_lines: called with all progress lines whenever there are new ones.
        """
        with training(title, self.directory.path(f"logs/{name}.jsonl"), keep=keep, on_lines=on_lines) as progress:
            yield {
                "resources": self.resources,
                "storage_path": self.directory.path(TRAINING),
                "progress_path": progress,
                "workers": self.workers,
            }

    def close(self) -> None:
        """Ends workers that were kept."""
        if self.workers is not None:
            self.workers.close()

    def write_summary(self, name: str, result: Any) -> None:
        """Writes the numbers of a ``fit_*`` function's result."""
        numbers = {k: v for k, v in asdict(result).items() if isinstance(v, int | float)}
        write_json(self.directory.path(f"logs/{name}-summary.json"), numbers)

    def read_summary(self, name: str) -> dict[str, float]:
        """Returns the numbers that ``write_summary`` wrote; {} where it wrote none."""
        path = self.directory.path(f"logs/{name}-summary.json")
        return read_json(path, lambda numbers: are_numbers(*numbers.values())) if path.exists() else {}
