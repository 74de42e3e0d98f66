"""Reads the inputs of ``rlenv evaluate``: run directories, with all their simulator versions, and sessions files.

Only the evaluation users' sessions of a run are read, since nothing was trained on them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from launch.adversarial.table import verdicts
from launch.run.contents import LEAK, MAIN, POWER, simulated_versions
from launch.run.settings import read_settings
from launch.tracking.tracker import read_metrics
from rlenv.core.errors import ConfigError
from rlenv.core.files import read_json
from rlenv.core.plain_yaml import read_yaml
from rlenv.core.types import Session, SessionContext
from rlenv.data.labels import LabelMap, with_mapped_labels
from rlenv.data.sessions import stream_sessions
from rlenv.discriminator.labelled import ScoredSession
from rlenv.evaluation.ab_tests import AbTest
from rlenv.evaluation.discriminators import Judgement
from rlenv.evaluation.subjects import Simulator, aggregate, left_out_empty

PART = "evaluation"


@dataclass
class Inputs:
    """The data of the tables and the report."""

    simulators: list[Simulator] = field(default_factory=list)
    real: list[Session] = field(default_factory=list)
    max_turns: int | None = None
    """The smallest cap of the runs on user messages; None without a run."""
    verdicts: list[str] = field(default_factory=list)
    """The verdicts of each run's controls, one sentence each."""
    notes: list[str] = field(default_factory=list)
    """Sessions that were left out, with their count."""
    log_odds: dict[str, dict[str, tuple[float, ...]]] = field(default_factory=dict)
    """Log-odds of the simulator's discriminator, shape [T + 1], by simulator and session id, real sessions included."""


def read_inputs(
    sources: Sequence[str],
    real: Sequence[Path],
    aggregates: Sequence[str] = (),
    *,
    part: str | None = PART,
    label_map: LabelMap | None = None,
) -> Inputs:
    """Returns the simulators and real sessions that the arguments name.

    Args:
        sources: run directories and sessions files; ``NAME=`` before one gives it a name.
        real: sessions files; without any, the evaluation users of a single run are the real sessions.
        aggregates: ``NAME=one,two`` pools simulators under a name; ``NAME`` alone pools all of them.
        part: the part of a run's sessions to read; None is all.
        label_map: translates the labels of all sessions.

    Raises:
        ConfigError: a source is neither a run nor a file, a run has no simulated sessions, two simulators have the same
            name, or there are no real sessions.
        DataError: a file has problems.
    """
    inputs = Inputs()
    named = [named_path(source) for source in sources]
    runs = [path for _, path in named if path.is_dir()]
    for name, path in named:
        if path.is_dir():
            _read_run(inputs, path, name or (path.name if len(runs) > 1 else ""), part, label_map or {})
        else:
            sessions = tuple(_read(path, label_map or {}))
            inputs.simulators.append(Simulator(name=name or _stem(path), sessions=sessions))
    if real:
        inputs.real = [session for path in real for session in _read(path, label_map or {})]
    elif len(runs) == 1:
        inputs.real = list(_read(runs[0] / f"data/{PART}.jsonl.gz", label_map or {}))
    else:
        raise ConfigError("there are no real sessions; give them with --real FILE (only a single run has its own)")
    inputs.simulators, inputs.real, inputs.notes = left_out_empty(inputs.simulators, inputs.real)
    own = {s.name: s for s in inputs.simulators}
    for argument in aggregates:
        name, _, members = argument.partition("=")
        inputs.simulators.append(aggregate(name, own, members.split(",") if members else list(own)))
    return inputs


def read_ab_tests(file: Path | None, control: str | None, treatments: Sequence[str]) -> list[AbTest]:
    """Returns the A/B tests of a YAML file (a list of name, control, treatment) and of the options.

    Raises:
        ConfigError: the file has another form, or a control has no treatment.
    """
    tests = []
    if file is not None:
        try:
            value = read_yaml(file.read_text("utf-8-sig"))
            tests = [AbTest.model_validate(item) for item in value]
        except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
            raise ConfigError(
                f"--ab {file}: expected a YAML list of {{name: ..., control: CHATBOT, treatment: CHATBOT}}, "
                f"got {type(error).__name__}"
            ) from None
    if bool(control) != bool(treatments):
        raise ConfigError("--control and --treatment go together: the chatbots of one A/B test")
    return [*tests, *(AbTest(name=t, control=control, treatment=t) for t in treatments if control)]


def named_path(source: str) -> tuple[str, Path]:
    """Returns the name ("" for none) and the path of a source on the command line.

    Raises:
        ConfigError: the path does not exist.
    """
    name, found, path = source.partition("=")
    if found and not Path(source).exists():
        return name, _existing(Path(path))
    return "", _existing(Path(source))


def _existing(path: Path) -> Path:
    if not path.exists():
        raise ConfigError(f"{path}: there is no such run directory or sessions file")
    return path


def _stem(path: Path) -> str:
    return re.sub(r"\.jsonl(\.gz)?$", "", path.name)


def _read_run(inputs: Inputs, root: Path, prefix: str, part: str | None, label_map: LabelMap) -> None:
    versions = simulated_versions(root)
    if not versions:
        raise ConfigError(
            f"{root}: this is not a run with simulated sessions; expected {root}/base/simulated/sessions.jsonl"
        )
    for version in versions:
        name = f"{prefix}/{version}" if prefix else version
        sessions = _read(root / version / "simulated/sessions.jsonl", label_map)
        kept = tuple(s for s in sessions if part in (None, (s.model_extra or {}).get("part")))
        judgement = _judgement(root / version)
        inputs.simulators.append(Simulator(name=name, sessions=kept, discriminator=judgement))
        if judgement:
            inputs.log_odds[name] = {s.session_id: s.log_odds for s in judgement.scored}
    cap = _max_turns(root)
    if cap:
        inputs.max_turns = min(cap, inputs.max_turns or cap)
    metrics = root / "metrics.jsonl"
    if metrics.exists():
        lead = f"{prefix}: " if prefix else ""
        inputs.verdicts += [lead + sentence for sentence in verdicts(list(read_metrics(metrics)))]


def _read(path: Path, label_map: LabelMap) -> Iterator[Session]:
    """Yields the sessions without their contexts, which no table uses and which are most of a summarized corpus."""
    for session in stream_sessions(path):
        yield with_mapped_labels(session, label_map).model_copy(update={"context": SessionContext()})


def _max_turns(root: Path) -> int | None:
    path = root / "config.yaml"
    settings = read_settings(path) if path.exists() else {}
    env = settings.get("env") if isinstance(settings, Mapping) else None
    return env.get("max_turns") if isinstance(env, Mapping) else None


def _judgement(version: Path) -> Judgement | None:
    folder = version / "discriminator"
    if not (folder / MAIN).exists():
        return None
    measures = version / "measures/metrics.json"
    metrics = read_json(measures) if measures.exists() else {}
    return Judgement(
        scored=_scored(folder / MAIN),
        leak=_scored(folder / LEAK),
        power=_scored(folder / POWER),
        referee_accuracy=metrics.get("disc/referee_accuracy"),
    )


def _scored(folder: Path) -> tuple[ScoredSession, ...]:
    from trainers.discriminator.fit import read_validation

    return read_validation(folder) if folder.exists() else ()
