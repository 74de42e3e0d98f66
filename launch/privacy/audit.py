"""``rlenv audit RUN``: which sessions the simulated user spoiled, and whether it says its training users' words.

Both are computed from the text of a run's sessions, without a model. Real people are the row to compare with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from launch.run.config.run import RunConfig
from launch.run.contents import check_run, read_data, run_settings, simulated_versions
from launch.run.directory import RunDirectory
from launch.run.settings import load_config
from rlenv.core.errors import ConfigError
from rlenv.core.types import Session
from rlenv.data.sessions import read_sessions, write_sessions
from rlenv.evaluation.membership import LongestRun, OwnWords
from rlenv.evaluation.user_faults import FaultCounts, count_faults, without_faults

PEOPLE = "real users"


@dataclass(frozen=True)
class Audited:
    """What the audit found out about the sessions of one version, or of real people."""

    name: str
    faults: FaultCounts
    run: LongestRun


def audit_run(root: str | Path) -> list[Audited]:
    """Returns the audit of each version of a run, oldest first, and at last that of the evaluation users themselves.

    Raises:
        ConfigError: the folder holds no adversarial run, or one without simulated sessions.
        DataError: a file of the run is damaged.
    """
    config = adversarial_settings(root)
    directory = RunDirectory(root)
    real = read_data(directory)
    versions = simulated_versions(root)
    if not versions:
        raise ConfigError(f"{root}: no sessions are simulated yet; start or finish the run first")
    trained_on = real["sft"][: config.data.max_sft_sessions]
    known = {s.session_id for s in trained_on}
    others = [s for part in real.values() for s in part if s.session_id not in known]
    own = OwnWords(trained_on, others)
    found = []
    for name in versions:
        sessions = simulated_sessions(root, name)
        found.append(Audited(name, count_faults(sessions), own.longest_run(sessions)))
    return [*found, Audited(PEOPLE, count_faults(real["evaluation"]), own.longest_run(real["evaluation"]))]


def simulated_sessions(root: str | Path, version: str) -> list[Session]:
    """Returns the simulated sessions of a version."""
    return read_sessions(Path(root) / version / "simulated" / "sessions.jsonl", neighbours="keep")


def write_unspoiled(root: str | Path, versions: Sequence[str], folder: Path) -> dict[str, int]:
    """Writes the sessions that the user did not spoil to ``folder/VERSION.jsonl``; returns their numbers."""
    numbers = {}
    for version in versions:
        kept = without_faults(simulated_sessions(root, version))
        write_sessions(folder / f"{version}.jsonl", kept)
        numbers[version] = len(kept)
    return numbers


def adversarial_settings(root: str | Path) -> RunConfig:
    """Returns the configuration of an adversarial run.

    Raises:
        ConfigError: the folder holds no run, or a run of another kind.
    """
    check_run(root)
    if "num_iterations" not in run_settings(root):
        raise ConfigError(f"{root}: this is a run of another kind; give the directory of a run of rlenv adversarial")
    return load_config(Path(root) / "config.yaml")
