"""Writes a run's metrics for TensorBoard, with tensorboardX: numbers only. Independent of W&B.

tensorboard/run          the rows of metrics.jsonl
tensorboard/PHASE        the curve of a phase, from its progress file in ``logs/``

Rows and curves are written anew by each attempt, from all finished phases, so a resumed run shows each once.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlenv.core.progress import read_curve
from rlenv.core.types import Session

log = logging.getLogger(__name__)


class TensorBoard:
    """A ``Sink`` that writes event files. What fails is a warning, and after that nothing is written.

    Args:
        folder: the run directory.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "tensorboard"
        self._broken = False
        self._phases: set[str] = set()
        self._rows: Any = None
        try:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._rows = _writer(self._folder / "run")
        except Exception as error:  # what a third party raises must not stop a run
            self._give_up(error)

    def log(
        self,
        step: int,
        version: str,
        metrics: Mapping[str, float],
        artifacts: Mapping[str, Path],
        transcripts: Sequence[Session],
    ) -> None:
        """Writes a row; no text."""
        self._write(self._rows, step, metrics)

    def log_phase(self, path: Path) -> None:
        """Writes a phase's curve, once."""
        if self._broken or path.stem in self._phases:
            return
        self._phases.add(path.stem)
        if curve := read_curve(path):
            writer = _writer(self._folder / path.stem)
            for step, numbers in curve:
                self._write(writer, step, numbers)
            writer.close()

    def log_artifacts(self, version: str, artifacts: Mapping[str, Path]) -> None:
        """Does nothing: TensorBoard has no references to files."""

    def close(self) -> None:
        """Ends the file of the rows."""
        if self._rows is not None and not self._broken:
            self._rows.close()

    def _write(self, writer: Any, step: int, metrics: Mapping[str, float]) -> None:
        if self._broken:
            return
        try:
            for name, value in metrics.items():
                writer.add_scalar(name, value, step)
            writer.flush()
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._broken = True
        log.warning("TensorBoard failed (%s); the run goes on without it", type(error).__name__)


def _writer(folder: Path) -> Any:
    from tensorboardX import SummaryWriter

    return SummaryWriter(str(folder))
