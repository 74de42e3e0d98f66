"""Metrics of a run: JSON lines always, Weights & Biases when asked. Numbers only, never message text.

``metrics.jsonl`` is rebuilt from the finished versions' metrics, one row each, so a resumed run leaves the same
file as an undisturbed one; W&B receives each row once.
"""

from __future__ import annotations

import json
import logging
import math
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rlenv.core.errors import ConfigError
from rlenv.core.files import write_text
from rlenv.core.settings import Settings, settings

log = logging.getLogger(__name__)


@settings
class TrackingConfig(Settings):
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

            self._sent = _Sent(folder / "wandb.json")
            self._run = wandb.init(
                project=config.project,
                entity=config.entity,
                name=run_name,
                id=self._sent.run_id,
                dir=str(folder),
                mode="online" if os.environ.get("WANDB_API_KEY") else "offline",
                config=dict(settings),
                resume="allow",
                reinit="create_new",
                settings=wandb.Settings(console="off", silent=True),
            )
            log.info("Weights & Biases: %s", self._run.url or f"offline files in {folder / 'wandb'}")

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
        if self._run is not None and step not in self._sent.steps:
            self._run.log(finite, step=step)
            self._sent.add(step)

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the W&B run, if there is one."""
        if self._run is not None:
            self._run.finish()


class _Sent:
    """What W&B has of this run directory: one W&B run, whatever its name, and the steps it was given."""

    def __init__(self, path: Path) -> None:
        self._path = path
        new: dict[str, Any] = {"id": secrets.token_hex(8), "steps": []}
        known = json.loads(path.read_text()) if path.exists() else new
        self.run_id: str = known["id"]
        self.steps: list[int] = known["steps"]
        self._write()

    def add(self, step: int) -> None:
        """Notes that W&B has the row of ``step``."""
        self.steps.append(step)
        self._write()

    def _write(self) -> None:
        write_text(self._path, json.dumps({"id": self.run_id, "steps": self.steps}) + "\n")


def read_metrics(path: str | Path) -> Sequence[dict[str, Any]]:
    """Returns the rows of a ``metrics.jsonl``."""
    return [json.loads(line) for line in Path(path).read_text().splitlines() if line.strip()]
