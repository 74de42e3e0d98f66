"""Sends a run's rows and curves to Weights & Biases; what goes wrong there is a warning and never stops a run.

A run is one group: a run of job type ``run`` with the rows, on an axis of their own, and a run for each training or
simulation phase (job types ``sft``, ``discriminator``, ``dpo``, ...) with its curve. Adapters and reports are artifacts
by reference: the files stay where they are. W&B receives each row once, also from a resumed run, and once more if it
has got more figures.
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from launch.tracking.config import TrackingConfig
from rlenv.core.errors import ConfigError, DataError, there_are
from rlenv.core.files import read_json, write_text
from rlenv.core.progress import read_curve
from rlenv.core.types import Session

log = logging.getLogger(__name__)
PATIENCE_S = 120.0
"""Seconds that the run waits for W&B in one call."""
STATE = "wandb.json"
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


class WeightsAndBiases:
    """A group of W&B runs. No method raises: what fails is a warning, and after that W&B is left alone."""

    def __init__(
        self, folder: Path, config: TrackingConfig, run_name: str, settings: Mapping[str, Any], axis: str, mode: Mode
    ) -> None:
        self._folder, self._config, self._axis, self._mode = folder, config, axis, mode
        self._sent = _WandbState(folder / STATE)
        self._name = run_name
        self._group = os.environ.get("WANDB_RUN_GROUP") or f"{run_name}-{self._sent.run_id[:8]}"
        self._run: Any = None
        self._broken = False
        self._safely(lambda: self._start(settings))

    def _start(self, settings: Mapping[str, Any]) -> None:
        """Begins the group's own run. Where the server cannot be reached or refuses the key, files stay offline."""
        import wandb

        os.environ.setdefault("WANDB_SILENT", "true")  # its notices would garble our progress bars
        try:
            self._run = self._init(self._sent.run_id, self._name, "run", settings)
        except Exception as error:
            if self._mode != "online":
                raise
            log.warning(
                "Weights & Biases does not answer or refuses the key (%s); its files stay in %s, to be sent with "
                "wandb sync",
                type(error).__name__,
                self._folder / "wandb",
            )
            wandb.teardown()  # its own process still has the run that failed
            self._mode = "offline"
            self._run = self._init(self._sent.run_id, self._name, "run", settings)
        self._run.define_metric(self._axis)
        self._run.define_metric("*", step_metric=self._axis)
        where = self._run.url if self._mode == "online" else f"offline files in {self._folder / 'wandb'}"
        log.info("Weights & Biases: %s", where)

    def _init(self, run_id: str, name: str, job_type: str, settings: Mapping[str, Any]) -> Any:
        import wandb

        quiet: dict[str, Any] = {"console": "off", "silent": True}
        if "WANDB_INIT_TIMEOUT" not in os.environ:
            quiet["init_timeout"] = INIT_TIMEOUT_S
        return wandb.init(
            project=self._config.project,
            entity=self._config.entity,
            name=name,
            group=self._group,
            job_type=job_type,
            id=run_id,
            dir=str(self._folder),
            mode=self._mode,
            config=dict(settings),
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(**quiet),
        )

    def log(
        self,
        step: int,
        version: str,
        metrics: Mapping[str, float],
        artifacts: Mapping[str, Path],
        transcripts: Sequence[Session],
    ) -> None:
        """Sends a row that was not sent before, or had fewer figures.

        W&B counts rows on its own. Where a finished run goes on, the new versions have the steps of its further rows,
        and the row of the former last version has the figures of its preferences as well.
        """
        if not self._sent.has_row(step, version, len(metrics)):
            place = self._sent.num_rows
            self._safely(lambda: self._run.log({self._axis: step, **metrics, **_table(transcripts)}, step=place))
            self.log_artifacts(version, artifacts)
            if not self._broken:
                self._sent.add("rows", [step, version, len(metrics)])

    def log_artifacts(self, version: str, artifacts: Mapping[str, Path]) -> None:
        """Sends references to the files that exist."""
        for kind, path in artifacts.items():
            if path.exists():
                self._safely(lambda kind=kind, path=path: self._log_artifact(kind, version, path))  # type: ignore[misc]

    def _log_artifact(self, kind: str, version: str, path: Path) -> None:
        import wandb

        name = re.sub(r"[^\w.-]", "-", f"{self._group}-{version}-{kind}")
        artifact = wandb.Artifact(name, type=kind, metadata={"version": version})
        artifact.add_reference(path.absolute().as_uri())
        self._run.log_artifact(artifact)

    def log_phase(self, path: Path) -> None:
        """Sends a phase's progress lines as a run of their own, unless it was sent."""
        if path.stem in self._sent.phases:
            return
        job_type, _, version = path.stem.partition("-")
        if curve := read_curve(path):
            self._safely(lambda: self._log_curve(f"{self._sent.run_id}-{path.stem}", job_type, version, curve))
        if not self._broken:
            self._sent.add("phases", path.stem)

    def _log_curve(
        self, run_id: str, job_type: str, version: str, curve: Sequence[tuple[int, Mapping[str, float]]]
    ) -> None:
        axis = f"{job_type}/step"
        run = self._init(run_id, f"{self._name} {job_type} {version}".strip(), job_type, {"version": version})
        run.define_metric(axis)
        run.define_metric("*", step_metric=axis)
        for step, numbers in curve:
            run.log({axis: step, **numbers})
        run.finish()

    def close(self) -> None:
        """Ends the group's own run."""
        if self._run is not None:
            self._safely(lambda: self._run.finish())
            self._run = None

    def _safely(self, call: Callable[[], Any]) -> None:
        """Makes a call to W&B; waits no longer than ``PATIENCE_S``, and after a failure makes no further one."""
        if self._broken:
            return
        errors: list[BaseException] = []

        def attempt() -> None:
            try:
                call()
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=attempt, name="wandb", daemon=True)
        thread.start()
        thread.join(PATIENCE_S)
        if errors or thread.is_alive():
            self._broken = True
            cause = type(errors[0]).__name__ if errors else f"no answer within {PATIENCE_S:.0f} s"
            log.warning("Weights & Biases failed (%s); the run goes on without it, its numbers are in %s", cause,
                        self._folder / "metrics.jsonl")  # fmt: skip


def _table(transcripts: Sequence[Session]) -> dict[str, Any]:
    """Returns the messages of conversations as a W&B table, a row each; {} if there are none."""
    if not transcripts:
        return {}
    import wandb

    rows = [
        [session.session_id, session.chatbot, place, message.role, message.content]
        for session in transcripts
        for place, message in enumerate(session.messages, start=1)
    ]
    return {"transcripts": wandb.Table(columns=["session", "chatbot", "message", "role", "text"], data=rows)}


class _WandbState:
    """The W&B run of this run directory, and what was sent to it; kept on disk for resuming."""

    def __init__(self, path: Path) -> None:
        self._path = path
        known: dict[str, Any] = {}
        if path.exists():
            try:
                known = read_json(path, _is_state)
            except DataError:
                log.warning("%s is damaged; Weights & Biases gets a new group of runs", path)
        self.run_id: str = known.get("id") or secrets.token_hex(8)
        self.steps: list[int] = known.get("steps", [])
        """Rows that were sent before their versions were kept."""
        self.rows: list[list[Any]] = known.get("rows", [])
        """The steps, versions and numbers of figures of the rows that were sent; older ones have no number."""
        self.phases: list[str] = known.get("phases", [])
        self._write()

    @property
    def num_rows(self) -> int:
        """Rows that were sent."""
        return len(self.steps) + len(self.rows)

    def has_row(self, step: int, version: str, num_figures: int) -> bool:
        """Returns whether a row was sent with at least so many figures."""
        sent = [row[2] if len(row) > 2 else num_figures for row in self.rows if row[:2] == [step, version]]
        return step in self.steps or max(sent, default=-1) >= num_figures

    def add(self, what: Literal["rows", "phases"], value: Any) -> None:
        """Records that a row, or the curve of a phase, was sent."""
        getattr(self, what).append(value)
        self._write()

    def _write(self) -> None:
        sent = {"id": self.run_id, "steps": self.steps, "rows": self.rows, "phases": self.phases}
        write_text(self._path, json.dumps(sent) + "\n")


def _is_state(known: Mapping[str, Any]) -> bool:
    lists = (known.get(name, []) for name in ("steps", "rows", "phases"))
    return isinstance(known.get("id", ""), str) and all(isinstance(value, list) for value in lists)
