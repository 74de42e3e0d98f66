"""Metrics of a run: JSON lines always, Weights & Biases when asked. Numbers only, never message text.

``metrics.jsonl`` is rebuilt from the finished versions' metrics, one row each, so a resumed run leaves the same
file as an undisturbed one; W&B receives each row once.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.run_directory import write_text
from rlenv.errors import ConfigError


@dataclass(frozen=True)
class TrackingConfig:
    """Where a run's metrics go beside ``metrics.jsonl``."""

    wandb: bool = False
    """Send metrics to Weights & Biases; without a key (WANDB_API_KEY) the files stay offline in the run directory."""
    project: str = "rlenv"
    """W&B project."""
    entity: str | None = None
    """W&B team or user; None is the key's own."""


class Tracker:
    """One run's metrics. ``log`` takes flat keys ``phase/quantity`` and numbers."""

    def __init__(self, folder: Path, config: TrackingConfig, run_name: str, settings: Mapping[str, Any]) -> None:
        self.path = folder / "metrics.jsonl"
        self._rows: list[dict[str, Any]] = []
        self._run: Any = None
        if config.wandb:
            import wandb

            self._run = wandb.init(
                project=config.project,
                entity=config.entity,
                name=run_name,
                id=run_name.replace("/", "-"),
                dir=str(folder),
                mode="online" if os.environ.get("WANDB_API_KEY") else "offline",
                config=dict(settings),
                resume="allow",
            )

    def log(self, step: int, version: str, metrics: Mapping[str, float | None]) -> None:
        """Records one row.

        Raises:
            ConfigError: a value that is no number; text never leaves the run directory.
        """
        wrong = [k for k, v in metrics.items() if not (v is None or isinstance(v, int | float))]
        if wrong:
            raise ConfigError(f"metrics take numbers; not numbers: {', '.join(sorted(wrong))}")
        finite = {k: v for k, v in metrics.items() if v is not None and math.isfinite(v)}
        self._rows.append({"step": step, "version": version, **dict(sorted(finite.items()))})
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in self._rows))
        if self._run is not None:
            self._run.log(finite, step=step)

    def close(self) -> None:
        """Ends the W&B run, if there is one."""
        if self._run is not None:
            self._run.finish(quiet=True)


def read_metrics(path: str | Path) -> Sequence[dict[str, Any]]:
    """Returns the rows of a ``metrics.jsonl``."""
    return [json.loads(line) for line in Path(path).read_text().splitlines() if line.strip()]
