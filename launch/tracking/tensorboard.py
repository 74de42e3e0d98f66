"""Writes a run's metrics for TensorBoard, with tensorboardX: numbers only. Independent of W&B.

tensorboard/run          the rows of metrics.jsonl
tensorboard/PHASE        the curve of a phase, from its progress file in ``logs/``

Rows and curves are written anew by each attempt, from all finished phases, so a resumed run shows each once.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
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
        self._safely(self._open)

    def log(
        self,
        step: int,
        version: str,
        metrics: Mapping[str, float],
        artifacts: Mapping[str, Path],
        transcripts: Sequence[Session],
    ) -> None:
        """Writes a row; no text."""
        self._safely(lambda: _write(self._rows, step, metrics))

    def log_phase(self, path: Path) -> None:
        """Writes a phase's curve, once."""
        if self._broken or path.stem in self._phases:
            return
        self._phases.add(path.stem)
        if curve := read_curve(path):
            self._safely(lambda: self._write_curve(path.stem, curve))

    def log_artifacts(self, version: str, artifacts: Mapping[str, Path]) -> None:
        """Does nothing: TensorBoard has no references to files."""

    def close(self) -> None:
        """Ends the file of the rows."""
        self._safely(lambda: self._rows.close())

    def _open(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._rows = _writer(self._folder / "run")

    def _write_curve(self, phase: str, curve: Sequence[tuple[int, Mapping[str, float]]]) -> None:
        writer = _writer(self._folder / phase)
        for step, numbers in curve:
            _write(writer, step, numbers)
        writer.close()

    def _safely(self, act: Callable[[], None]) -> None:
        if self._broken:
            return
        try:
            act()
        except Exception as error:  # what a third party raises must not stop a run
            self._broken = True
            log.warning("TensorBoard failed (%s); the run goes on without it", type(error).__name__)


def _write(writer: Any, step: int, metrics: Mapping[str, float]) -> None:
    for name, value in metrics.items():
        writer.add_scalar(name, value, step)
    writer.flush()


def _writer(folder: Path) -> Any:
    from tensorboardX import SummaryWriter

    return SummaryWriter(str(folder))
