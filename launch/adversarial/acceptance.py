"""Whether a new version is taken, and whether anything is left to learn: judged on the adversarial users alone.

A version's own, fresh discriminator looks at it; what it says of the training sessions out of fold is compared with
what the predecessor's discriminator said of the predecessor, context by context. The evaluation users stay unseen.

{version}/acceptance/verdict.json   the figures and the decision
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from launch.adversarial.discrimination import label_simulated
from launch.adversarial.run import AdversarialRun
from launch.adversarial.simulation import Simulated
from launch.run.config.run import RunConfig
from launch.run.contents import MAIN, VERDICT
from rlenv.core.files import read_json, write_json
from rlenv.core.types import Session
from rlenv.discriminator.controls import referee_accuracy, style_referee_accuracy
from rlenv.discriminator.labelled import LabelledSession, ScoredSession
from trainers.discriminator.fit import OUT_OF_FOLD, read_validation


@dataclass(frozen=True)
class Verdict:
    """The decision on a version."""

    taken: bool = True
    at_chance: bool = False
    """Whether neither the discriminator nor a referee tells the version from people beyond two standard errors."""
    accuracy: float | None = None
    """Of the version's discriminator, over all turns, mean over contexts."""
    predecessor: str | None = None
    """The newest version that was taken before; None for the base."""
    difference: float | None = None
    """``accuracy`` less the predecessor's; below 0 the version is harder to tell."""
    standard_error: float | None = None
    """Of the difference, over contexts that both have."""


def judge_version(
    run: AdversarialRun,
    version: str,
    predecessor: str | None,
    simulated: Sequence[Simulated],
    real: Mapping[str, Sequence[Session]],
) -> Verdict:
    """Returns the verdict on a version whose discriminator is trained, and writes it.

    Where the run takes every version and does not stop, there is nothing to judge; a verdict from before ``stop`` was
    set to ``never`` is removed.
    """
    if run.config.accept == "always" and run.config.stop == "never":
        if run.directory.has(f"{version}/acceptance"):
            run.directory.remove(f"{version}/acceptance", "since the run judges no versions now")
        return Verdict()

    def make(folder: Path) -> None:
        accuracy = context_accuracy(_out_of_fold(run, version))
        before = context_accuracy(_out_of_fold(run, predecessor)) if predecessor else {}
        difference, error = paired_difference(accuracy, before)
        items = label_simulated(real, simulated, run.config.discriminator).train.items
        harder = difference is not None and error is not None and difference < -run.config.accept_margin * error
        values = list(accuracy.values())
        verdict = Verdict(
            taken=predecessor is None or run.config.accept == "always" or harder,
            accuracy=float(np.mean(values)),
            predecessor=predecessor,
            difference=difference,
            standard_error=error,
            at_chance=_within(float(np.mean(values)), float(np.std(values) / math.sqrt(len(values))))
            and referees_at_chance(items, run.config.seed),
        )
        folder.mkdir()
        write_json(folder / VERDICT, asdict(verdict))

    folder = run.directory.once(f"{version}/acceptance", make)
    return Verdict(**read_json(folder / VERDICT, lambda verdict: verdict.keys() <= {f.name for f in fields(Verdict)}))


def early_end(config: RunConfig, verdict: Verdict, tries: int) -> str | None:
    """Returns why a run ends with the version of this verdict, however many iterations it may have; None if it goes on.

    Args:
        config: the run's settings.
        verdict: the verdict on the newest version.
        tries: versions in a row that were not taken.
    """
    if tries == config.most_tries:
        return f"{tries} versions in a row were not taken; a larger most_tries goes on"
    if config.stop == "at_chance" and verdict.at_chance:
        return "neither its discriminator nor a referee tells it from people; stop=never goes on"
    return None


def context_accuracy(scored: Sequence[ScoredSession]) -> dict[str, float]:
    """Returns the share of right decisions over the turns of each context's sessions."""
    decisions: dict[str, list[bool]] = {}
    for session in scored:
        right = [(value > 0) == session.real for value in session.log_odds[1:]]
        decisions.setdefault(session.context_id, []).extend(right)
    return {context: sum(right) / len(right) for context, right in decisions.items() if right}


def paired_difference(one: Mapping[str, float], other: Mapping[str, float]) -> tuple[float, float] | tuple[None, None]:
    """Returns the mean of ``one`` less ``other`` over the contexts of both, and its standard error.

    >>> paired_difference({"a": 0.5, "b": 0.7}, {"a": 0.8, "b": 0.8, "c": 1.0})
    (-0.2, 0.1)
    >>> paired_difference({"a": 0.5}, {})
    (None, None)
    """
    differences = [one[context] - other[context] for context in one if context in other]
    if len(differences) < 2:
        return None, None
    error = float(np.std(differences, ddof=1) / math.sqrt(len(differences)))
    return round(float(np.mean(differences)), 12), round(error, 12)


def referees_at_chance(items: Sequence[LabelledSession], seed: int) -> bool:
    """Returns whether both referees, fitted on half of the contexts, are at chance on the other half."""
    place = {context: i for i, context in enumerate(dict.fromkeys(item.context_id for item in items))}
    halves = [[item for item in items if place[item.context_id] % 2 == half] for half in (0, 1)]
    error = math.sqrt(0.25 / max(1, len(halves[1])))
    referees = (referee_accuracy, style_referee_accuracy)
    return all(_within(referee(halves[0], halves[1], seed).accuracy, error) for referee in referees)


def _within(accuracy: float, standard_error: float) -> bool:
    return accuracy < 0.5 + 2 * standard_error


def _out_of_fold(run: AdversarialRun, version: str) -> tuple[ScoredSession, ...]:
    return read_validation(run.directory.path(f"{version}/discriminator") / MAIN, OUT_OF_FOLD)
