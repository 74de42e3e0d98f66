"""Logs a run's metrics to JSON lines and, if configured, to Weights & Biases and TensorBoard: numbers, no message text.

Text goes to W&B alone, and only where ``tracking.transcripts`` asks for it.

``metrics.jsonl`` is rebuilt from the metrics of the finished versions, one row each, so a resumed run leaves the same
file as an uninterrupted one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from launch.tracking.config import TrackingConfig
from launch.tracking.tensorboard import TensorBoard
from launch.tracking.weights_and_biases import STATE, WeightsAndBiases, wandb_mode
from rlenv.core.errors import ConfigError
from rlenv.core.files import are_numbers, read_json_lines, write_text
from rlenv.core.types import Session


class Sink(Protocol):
    """Where a run's metrics go besides ``metrics.jsonl``. No method raises: what fails is a warning."""

    def log(
        self,
        step: int,
        version: str,
        metrics: Mapping[str, float],
        artifacts: Mapping[str, Path],
        transcripts: Sequence[Session],
    ) -> None:
        """Takes one row; a resumed run logs its rows again, and a row that is known already is left out."""
        ...

    def log_phase(self, path: Path) -> None:
        """Takes the progress file of a phase that has ended."""
        ...

    def log_artifacts(self, version: str, artifacts: Mapping[str, Path]) -> None:
        """Takes references to files that belong to no row."""
        ...

    def close(self) -> None:
        """Ends the run there."""
        ...


class Tracker:
    """One run's metrics. ``log`` takes flat keys ``phase/quantity`` and numbers.

    Args:
        folder: the run directory.
        config: where the metrics go.
        run_name: the run's name in W&B.
        settings: the run's settings, which W&B shows.
        axis: what a row's step counts.
    """

    def __init__(
        self, folder: Path, config: TrackingConfig, run_name: str, settings: Mapping[str, Any], axis: str = "iteration"
    ) -> None:
        self.path = folder / "metrics.jsonl"
        self._folder = folder
        self._rows: list[dict[str, Any]] = []
        self._num_transcripts = config.transcripts
        mode = wandb_mode() if config.wandb else "disabled"
        self._sinks: list[Sink] = []
        if mode != "disabled":
            self._sinks.append(WeightsAndBiases(folder, config, run_name, settings, axis, mode))
        if config.tensorboard:
            self._sinks.append(TensorBoard(folder))

    def log(
        self,
        step: int,
        version: str,
        metrics: Mapping[str, float | None],
        artifacts: Mapping[str, Path] | None = None,
        of_attempt: Mapping[str, float] | None = None,
        transcripts: Sequence[Session] = (),
    ) -> None:
        """Logs one row.

        Args:
            step: the row's place on the axis.
            version: the version that it is about.
            metrics: numbers; those that are None or not finite are left out.
            artifacts: folders and files of this version by type, such as ``adapter``; W&B gets references to them.
            of_attempt: figures of this attempt, such as wall times, which another may not have. They are left out of
                ``metrics.jsonl``, which is the same for every attempt.
            transcripts: conversations; the text of the first ``tracking.transcripts`` goes to W&B.

        Raises:
            ConfigError: a value is not a number; text never leaves the run directory.
        """
        wrong = [k for k, v in metrics.items() if not (v is None or isinstance(v, int | float))]
        if wrong:
            raise ConfigError(f"expected numbers as metrics; not numbers: {', '.join(sorted(wrong))}")
        finite = {k: v for k, v in metrics.items() if v is not None and math.isfinite(v)}
        self._rows.append({"step": step, "version": version, **dict(sorted(finite.items()))})
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in self._rows))
        for sink in self._sinks:
            shown = transcripts[: self._num_transcripts]
            sink.log(step, version, {**finite, **(of_attempt or {})}, artifacts or {}, shown)

    def log_phases(self) -> None:
        """Sends the curves of phases that have ended, from their progress files. Call it while none is under way."""
        for path in sorted((self._folder / "logs").glob("*.jsonl")):
            for sink in self._sinks:
                sink.log_phase(path)

    def log_artifacts(self, version: str, artifacts: Mapping[str, Path]) -> None:
        """Sends references to files that belong to no row, such as a report."""
        for sink in self._sinks:
            sink.log_artifacts(version, artifacts)

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.log_phases()
        self.close()

    def close(self) -> None:
        """Ends the run in W&B and TensorBoard."""
        for sink in self._sinks:
            sink.close()


def log_report(root: Path, settings: Mapping[str, Any], report: Path) -> None:
    """Gives the W&B run of a run directory, if it has one, a reference to an evaluation's report.

    Args:
        root: the run directory.
        settings: the run's settings.
        report: the report's folder.
    """
    config = TrackingConfig(**settings.get("tracking", {}))
    if config.wandb and (root / STATE).is_file():
        tracker = Tracker(root, replace(config, tensorboard=False), settings["name"], settings)
        tracker.log_artifacts("evaluation", {"report": report})
        tracker.close()


def read_metrics(path: str | Path) -> Sequence[dict[str, Any]]:
    """Returns the rows of a ``metrics.jsonl``; raises a ``DataError`` if it is damaged."""
    return read_json_lines(path, lambda row: isinstance(row["version"], str) and are_numbers(*_numbers(row)))


def _numbers(row: Mapping[str, Any]) -> list[Any]:
    return [row["step"], *(value for name, value in row.items() if name != "version" and value is not None)]
