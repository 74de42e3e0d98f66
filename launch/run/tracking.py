"""Logs a run's metrics to JSON lines and, if configured, to Weights & Biases. Numbers only, never message text.

``metrics.jsonl`` is rebuilt from the metrics of the finished versions, one row each, so a resumed run leaves the same
file as an uninterrupted one. W&B receives each row once.
"""

from __future__ import annotations

import json
import logging
import math
import os
import secrets
from collections.abc import Mapping, Sequence
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from rlenv.core.errors import ConfigError, there_are
from rlenv.core.files import write_text
from rlenv.core.settings import Settings, settings

log = logging.getLogger(__name__)


@settings
class TrackingConfig(Settings):
    """Where a run's metrics go besides ``metrics.jsonl``."""

    wandb: bool = False
    """Whether to send metrics to Weights & Biases. WANDB_MODE is obeyed; without it and without a key (WANDB_API_KEY,
    or one from ``wandb login``), offline files stay in the run directory."""
    project: str = "rlenv"
    """W&B project."""
    entity: str | None = None
    """W&B team or user; None is the owner of the key."""


Mode = Literal["online", "offline", "disabled"]
MODES: dict[str, Mode] = {
    "online": "online", "run": "online", "offline": "offline", "dryrun": "offline", "disabled": "disabled",
}  # fmt: skip
"""The values of WANDB_MODE that a run can use."""
INIT_TIMEOUT_S = 30.0
"""After so long without an answer of the server, W&B's files stay offline."""


def wandb_mode() -> Mode:
    """Returns W&B's mode: that of WANDB_MODE, else online where there is a key.

    Raises:
        ConfigError: WANDB_MODE has another value.
    """
    given = os.environ.get("WANDB_MODE")
    if not given:
        return "online" if os.environ.get("WANDB_API_KEY") or _logged_in() else "offline"
    if given not in MODES:
        raise ConfigError(f"the environment variable WANDB_MODE is {given!r}; {there_are(MODES, given)}")
    return MODES[given]


def _logged_in() -> bool:
    """Returns whether ``wandb login`` has left a key for the server."""
    host = urlsplit(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc(os.environ.get("NETRC") or Path.home() / ".netrc").authenticators(host) is not None
    except (OSError, NetrcParseError):
        return False


class Tracker:
    """One run's metrics. ``log`` takes flat keys ``phase/quantity`` and numbers."""

    def __init__(self, folder: Path, config: TrackingConfig, run_name: str, settings: Mapping[str, Any]) -> None:
        self.path = folder / "metrics.jsonl"
        self._rows: list[dict[str, Any]] = []
        self._run: Any = None
        mode = wandb_mode() if config.wandb else "disabled"
        if mode != "disabled":
            self._sent = _WandbState(folder / "wandb.json")
            self._begin(folder, config, run_name, settings, mode)

    def _begin(
        self, folder: Path, config: TrackingConfig, run_name: str, settings: Mapping[str, Any], mode: Mode
    ) -> None:
        """Begins the W&B run. Where the server cannot be reached or refuses the key, its files stay offline."""
        import wandb

        quiet: dict[str, Any] = {"console": "off", "silent": True}
        if "WANDB_INIT_TIMEOUT" not in os.environ:
            quiet["init_timeout"] = INIT_TIMEOUT_S
        try:
            self._run = wandb.init(
                project=config.project,
                entity=config.entity,
                name=run_name,
                id=self._sent.run_id,
                dir=str(folder),
                mode=mode,
                config=dict(settings),
                resume="allow",
                reinit="create_new",
                settings=wandb.Settings(**quiet),
            )
        except Exception as error:  # W&B raises many kinds, and none is worth a run
            if mode == "online":
                log.warning(
                    "Weights & Biases does not answer or refuses the key (%s); its files stay in %s, to be sent with "
                    "wandb sync",
                    type(error).__name__,
                    folder / "wandb",
                )
                wandb.teardown()  # its own process still has the run that failed
                self._begin(folder, config, run_name, settings, "offline")
            else:
                log.warning(
                    "Weights & Biases cannot write its files (%s); metrics.jsonl has them", type(error).__name__
                )
            return
        log.info("Weights & Biases: %s", self._run.url or f"offline files in {folder / 'wandb'}")

    def log(self, step: int, version: str, metrics: Mapping[str, float | None]) -> None:
        """Logs one row.

        Raises:
            ConfigError: a value is not a number; text never leaves the run directory.
        """
        wrong = [k for k, v in metrics.items() if not (v is None or isinstance(v, int | float))]
        if wrong:
            raise ConfigError(f"expected numbers as metrics; not numbers: {', '.join(sorted(wrong))}")
        finite = {k: v for k, v in metrics.items() if v is not None and math.isfinite(v)}
        self._rows.append({"step": step, "version": version, **dict(sorted(finite.items()))})
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in self._rows))
        if self._run is not None and step not in self._sent.steps:
            try:
                self._run.log(finite, step=step)
            except Exception as error:  # as in _begin
                log.warning("Weights & Biases did not take a row (%s); metrics.jsonl has it", type(error).__name__)
            else:
                self._sent.add(step)

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the W&B run, if there is one."""
        if self._run is not None:
            try:
                self._run.finish()
            except Exception as error:  # as in _begin
                log.warning("Weights & Biases did not take everything (%s); metrics.jsonl has it", type(error).__name__)


class _WandbState:
    """The W&B run of this run directory, and the steps that were sent to it; kept on disk for resuming."""

    def __init__(self, path: Path) -> None:
        self._path = path
        new: dict[str, Any] = {"id": secrets.token_hex(8), "steps": []}
        known = json.loads(path.read_text()) if path.exists() else new
        self.run_id: str = known["id"]
        self.steps: list[int] = known["steps"]
        self._write()

    def add(self, step: int) -> None:
        """Records that the row of ``step`` was sent."""
        self.steps.append(step)
        self._write()

    def _write(self) -> None:
        write_text(self._path, json.dumps({"id": self.run_id, "steps": self.steps}) + "\n")


def read_metrics(path: str | Path) -> Sequence[dict[str, Any]]:
    """Returns the rows of a ``metrics.jsonl``."""
    return [json.loads(line) for line in Path(path).read_text().splitlines() if line.strip()]
