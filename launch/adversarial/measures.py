"""Metrics of each simulator version, computed on the evaluation users only.

{version}/measures/metrics.json   the metrics of one version; the run's ``metrics.jsonl`` has one row per version
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from actors.adapter_proof import read_swaps, swap_metrics
from launch.adversarial.discrimination import Labelled, label_simulated
from launch.adversarial.run import AdversarialRun
from launch.adversarial.simulation import Simulated
from launch.run.contents import HALF, LEAK, MAIN, NEW_USERS, POWER, SWAPPED, VERDICT, with_sessions
from launch.run.training import Training
from launch.tracking.tracker import Tracker
from rlenv.core.files import read_json, write_json
from rlenv.core.types import Session
from rlenv.data.linguistics import diversity
from rlenv.discriminator.classification import TurnTable, flat_metrics, turn_table
from rlenv.discriminator.controls import cut_after_turn, leak_report, referee_accuracy, style_referee_accuracy
from rlenv.discriminator.labelled import ScoredSession
from rlenv.evaluation.discriminators import calibration
from rlenv.evaluation.user_faults import count_faults
from trainers.discriminator.fit import OUT_OF_FOLD, read_validation

SIMULATOR = "simulator"
Metrics = dict[str, float | int | None]


def measure(
    run: AdversarialRun,
    tracker: Tracker,
    step: int,
    version: str,
    simulated: Sequence[Simulated],
    real: Mapping[str, Sequence[Session]],
) -> Metrics:
    """Returns the metrics of one simulator version, and logs them."""

    def make(folder: Path) -> None:
        folder.mkdir()
        metrics = discrimination_metrics(
            run.directory.path(f"{version}/discriminator"),
            label_simulated(real, simulated, run.config.discriminator),
            run.config.seed,
            run.config.discriminator.learning_curve,
        )
        metrics |= realism_metrics(simulated, real, run.config.env.max_turns)
        write_json(folder / "metrics.json", metrics)

    metrics: Metrics = read_json(run.directory.once(f"{version}/measures", make) / "metrics.json")
    metrics |= phase_metrics(run.training, version)
    swaps = [swap for swap in read_swaps(run.directory.path("logs"), SIMULATOR) if swap.adapter == version]
    tracker.log(
        step,
        version,
        metrics,
        {"adapter": run.directory.path(f"{version}/adapter")},
        swap_metrics(swaps),
        [one.session for one in simulated if one.part == "evaluation"],
    )
    tracker.log_phases()
    return metrics


def phase_metrics(training: Training, version: str) -> Metrics:
    """Returns the counts and losses of a version's phases: conversations, preference pairs, SFT or DPO."""
    metrics: Metrics = {}
    for prefix, name in (("collect", f"{version}/simulated"), ("prefs", f"{version}/preferences")):
        path = training.directory.path(name) / "counts.json"
        if path.exists():
            metrics |= {f"{prefix}/{k}": v for k, v in read_json(path).items()}
    verdict = training.directory.path(f"{version}/acceptance/{VERDICT}")
    if verdict.exists():
        found = read_json(verdict)
        metrics |= {f"accept/{key}": found[key] for key in ("accuracy", "difference", "standard_error")}
        metrics["accept/taken"] = int(found["taken"])
    phase = "sft" if version == "base" else "dpo"
    return metrics | {f"{phase}/{k}": v for k, v in training.read_summary(f"{phase}-{version}").items()}


def discrimination_metrics(folder: Path, data: Labelled, seed: int, learning_curve: Sequence[int] = ()) -> Metrics:
    """Returns a version's row of Table 2 and the controls' accuracies.

    Args:
        folder: the folder of the version's discriminators.
        data: the sessions that they were trained and validated on.
        seed: the referee's seed.
        learning_curve: the numbers of training sessions of further discriminators.
    """
    scored = read_validation(folder / MAIN)
    table = _table(scored)
    metrics: Metrics = dict(flat_metrics(table))
    leak = _table(read_validation(folder / LEAK))
    metrics["disc/leak_accuracy"] = leak.overall.accuracy
    metrics["disc/leak_se"] = _standard_error(0.5, leak.session.num)
    for name in (POWER, SWAPPED, HALF):
        if (folder / name).exists():
            power = _table(read_validation(folder / name))
            key = "power" if name == POWER else f"power_{name}"
            metrics[f"disc/{key}_accuracy"] = power.overall.accuracy
            metrics[f"disc/{key}_accuracy_session"] = power.session.accuracy
    for number in learning_curve:
        fewer = _table(read_validation(folder / with_sessions(number)))
        metrics[f"disc/accuracy_overall_{number}"] = fewer.overall.accuracy
        metrics[f"disc/accuracy_session_{number}"] = fewer.session.accuracy
    if (folder / NEW_USERS).exists():
        metrics["disc/new_users_accuracy"] = _table(read_validation(folder / NEW_USERS, OUT_OF_FOLD)).overall.accuracy
    items = data.train.items, data.validation.items, seed
    metrics["disc/referee_accuracy"] = referee_accuracy(*items).accuracy
    metrics["disc/style_referee_accuracy"] = style_referee_accuracy(*items).accuracy
    decided = [(s.real, value) for s in scored for value in s.log_odds[1:]]
    metrics["disc/ece"] = calibration([real for real, _ in decided], [value for _, value in decided]).expected_error
    metrics["disc/accuracy_session_se"] = _standard_error(table.session.accuracy, table.session.num)
    aucs = leak_report(data.validation.items)
    return metrics | {f"disc/auc_{name}": value for name, value in aucs.items()}


def realism_metrics(simulated: Sequence[Simulated], real: Mapping[str, Sequence[Session]], max_turns: int) -> Metrics:
    """Returns the figures of Table 1 for the evaluation users' simulated and real sessions, and the users' faults.

    Entropy and TTR depend on length, so real sessions are cut at ``max_turns`` like simulated ones.
    """
    simulated_sessions = [s.session for s in simulated if s.part == "evaluation"]
    real_sessions = [cut_after_turn(session, max_turns) for session in real["evaluation"]]
    metrics: Metrics = {f"realism/{k}": v for k, v in diversity(simulated_sessions).items()}
    faults = count_faults(simulated_sessions)
    metrics |= {"faults/spoiled": faults.share(), "faults/spoiled_real": count_faults(real_sessions).share()}
    metrics |= {f"faults/{kind}": faults.share(kind) for kind in faults.kinds}
    return metrics | {f"real/{k}": v for k, v in diversity(real_sessions).items()}


def _table(scored: Sequence[ScoredSession]) -> TurnTable:
    return turn_table([s.real for s in scored], [s.log_odds for s in scored])


def _standard_error(share: float | None, num: int) -> float | None:
    return None if share is None or not num else math.sqrt(max(share * (1 - share), 1e-9) / num)
