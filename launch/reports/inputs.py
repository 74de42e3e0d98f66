"""What ``rlenv evaluate`` is given: run directories (every simulator version of theirs) and sessions files.

Of a run only the evaluation users' sessions are read: nothing was trained on them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from launch.adversarial.table import verdicts
from launch.run.contents import LEAK, MAIN, POWER, simulated_versions
from launch.run.tracking import read_metrics
from rlenv.core.errors import ConfigError
from rlenv.core.types import Session
from rlenv.data.sessions import read_sessions
from rlenv.discriminator.labelled import ScoredSession
from rlenv.evaluation.ab_tests import AbTest
from rlenv.evaluation.discriminators import Judgement
from rlenv.evaluation.subjects import Simulator, aggregate, left_out_empty

PART = "evaluation"


@dataclass
class Inputs:
    """Everything that the tables and the report are made of."""

    simulators: list[Simulator] = field(default_factory=list)
    real: list[Session] = field(default_factory=list)
    max_turns: int | None = None
    """The smallest cap of the runs on user messages; None without a run."""
    verdicts: list[str] = field(default_factory=list)
    """What the controls say of each run's accuracies."""
    notes: list[str] = field(default_factory=list)
    """Sessions that were left out, with their count."""
    log_odds: dict[str, dict[str, tuple[float, ...]]] = field(default_factory=dict)
    """By simulator, then session (real ones too): what its discriminator said, [T + 1]."""


def read_inputs(
    sources: Sequence[str], real: Sequence[Path], aggregates: Sequence[str] = (), *, part: str | None = PART
) -> Inputs:
    """Returns the simulators and real sessions that the arguments name.

    Args:
        sources: run directories and sessions files, each with ``NAME=`` before it where it shall have another name.
        real: sessions files; none is the evaluation users of the one run that is given.
        aggregates: ``NAME=one,two`` pools simulators under a name; ``NAME`` alone pools all of them.
        part: of runs, the users whose sessions are read; None is all.

    Raises:
        ConfigError: a source that is no run and no file, a run without simulated sessions, names taken twice, or no
            real sessions.
        DataError: a file with problems.
    """
    inputs = Inputs()
    named = [named_path(source) for source in sources]
    runs = [path for _, path in named if path.is_dir()]
    for name, path in named:
        if path.is_dir():
            _read_run(inputs, path, name or (path.name if len(runs) > 1 else ""), part)
        else:
            sessions = tuple(read_sessions(path))
            inputs.simulators.append(Simulator(name=name or _stem(path), sessions=sessions))
    if real:
        inputs.real = [session for path in real for session in read_sessions(path)]
    elif len(runs) == 1:
        inputs.real = read_sessions(runs[0] / f"data/{PART}.jsonl.gz")
    else:
        raise ConfigError("no real sessions: name them with --real FILE (a single run brings its own)")
    inputs.simulators, inputs.real, inputs.notes = left_out_empty(inputs.simulators, inputs.real)
    own = {s.name: s for s in inputs.simulators}
    for asked in aggregates:
        name, _, members = asked.partition("=")
        inputs.simulators.append(aggregate(name, own, members.split(",") if members else list(own)))
    return inputs


def read_ab_tests(file: Path | None, control: str | None, treatments: Sequence[str]) -> list[AbTest]:
    """Returns the A/B tests of a YAML file (a list of name, control, treatment) and of the options.

    Raises:
        ConfigError: a file that does not read so, or a control without treatment.
    """
    tests = []
    if file is not None:
        try:
            value = yaml.safe_load(file.read_text("utf-8"))
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
    """Returns the name ("" for none) and the path of a source as the command line has it.

    Raises:
        ConfigError: nothing is there.
    """
    name, found, path = source.partition("=")
    if found and not Path(source).exists():
        return name, _existing(Path(path))
    return "", _existing(Path(source))


def _existing(path: Path) -> Path:
    if not path.exists():
        raise ConfigError(f"{path}: no run directory or sessions file there")
    return path


def _stem(path: Path) -> str:
    return re.sub(r"\.jsonl(\.gz)?$", "", path.name)


def _read_run(inputs: Inputs, root: Path, prefix: str, part: str | None) -> None:
    versions = simulated_versions(root)
    if not versions:
        raise ConfigError(f"{root}: no run with simulated sessions; expected {root}/base/simulated/sessions.jsonl")
    for version in versions:
        name = f"{prefix}/{version}" if prefix else version
        sessions = read_sessions(root / version / "simulated/sessions.jsonl")
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


def _max_turns(root: Path) -> int | None:
    path = root / "config.yaml"
    settings = yaml.safe_load(path.read_text()) if path.exists() else {}
    env = settings.get("env") if isinstance(settings, Mapping) else None
    return env.get("max_turns") if isinstance(env, Mapping) else None


def _judgement(version: Path) -> Judgement | None:
    folder = version / "discriminator"
    if not (folder / MAIN).exists():
        return None
    measures = version / "measures/metrics.json"
    metrics = json.loads(measures.read_text()) if measures.exists() else {}
    return Judgement(
        scored=_scored(folder / MAIN),
        leak=_scored(folder / LEAK),
        power=_scored(folder / POWER),
        referee_accuracy=metrics.get("disc/referee_accuracy"),
    )


def _scored(folder: Path) -> tuple[ScoredSession, ...]:
    from trainers.discriminator.fit import read_validation

    return read_validation(folder) if folder.exists() else ()
