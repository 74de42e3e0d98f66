"""``rlenv card RUN``: the complete model card of a simulator's version, with what the run found out about it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from math import log2
from pathlib import Path
from typing import Any

from launch.adversarial.cards import simulator_card, write_card
from launch.adversarial.table import verdicts
from launch.privacy.audit import PEOPLE, Audited, adversarial_settings, audit_run
from launch.privacy.exposure import Exposure, exposures
from launch.run.contents import newest_taken, simulated_versions, simulator_versions
from launch.run.directory import RunDirectory
from launch.tracking.tracker import read_metrics
from rlenv.core.adapters import MANIFEST
from rlenv.core.errors import ConfigError, there_are
from rlenv.core.files import new_folder
from rlenv.evaluation.exposure import NUM_CANDIDATES
from rlenv.evaluation.membership import LONG_RUN, SEED_WORDS
from rlenv.evaluation.user_faults import KINDS

FIGURES = {
    "disc/accuracy_overall": "discriminator, after each message (0.50 is guessing)",
    "disc/accuracy_session": "discriminator, whole sessions",
    "disc/referee_accuracy": "word counts, whole sessions",
    "disc/style_referee_accuracy": "style, whole sessions",
    "disc/leak_accuracy": "without the user's words (0.50 is right)",
    "disc/power_accuracy": "against shuffled words (0.90 or more is required)",
}
KIND_NAMES = {
    "left_early": "left early",
    "repeats_itself": "repeats itself",
    "speaks_as_chatbot": "speaks as the chatbot",
    "contradicts_profile": "contradicts its profile",
}
assert KIND_NAMES.keys() == KINDS.keys()


def complete_card(root: str | Path, version: str | None = None) -> tuple[str, str]:
    """Returns the name and the card of a version of an adversarial run; None is the newest that was taken.

    Raises:
        ConfigError: there is no such run or version.
    """
    config, directory = adversarial_settings(root), RunDirectory(root)
    known = simulator_versions(directory, config)
    name = version or newest_taken(directory, list(known))
    if name not in known:
        raise ConfigError(f"{root}: no simulator {name!r}; {there_are(list(known), name)}")
    path = directory.path("metrics.jsonl")
    rows = list(read_metrics(path)) if path.exists() else []
    audited = audit_run(root) if simulated_versions(root) else []
    found = _found(name, rows, audited)
    if planted := exposures(directory, config, name) if directory.has("data") else []:
        found = "\n\n".join([found, "### Exposure of planted sentences", *_exposure(planted)])
    return name, simulator_card(directory, config, name, found=found)


def export_adapter(root: str | Path, folder: Path, version: str | None = None) -> str:
    """Copies an adapter to a new folder with its complete card; returns the version's name.

    Raises:
        ConfigError: there is no such run or version.
        PhaseError: the folder exists.
    """
    name, card = complete_card(root, version)
    config, directory = adversarial_settings(root), RunDirectory(root)
    adapter = simulator_versions(directory, config)[name]
    with new_folder(folder) as partial:
        ignored = shutil.ignore_patterns(MANIFEST)  # of the run's phase, whose card is another
        shutil.copytree(adapter.path, partial, dirs_exist_ok=True, ignore=ignored)
        write_card(partial, card)
    return name


def _found(version: str, rows: Sequence[Mapping[str, Any]], audited: Sequence[Audited]) -> str:
    parts = ["### Verdict of the controls", *_controls(version, rows)]
    by_name = {found.name: found for found in audited}
    if version in by_name:
        parts += ["### The simulated user's own faults", *_faults(by_name[version], by_name[PEOPLE])]
        parts += ["### Membership", *_membership(by_name[version], by_name[PEOPLE])]
    else:
        parts += ["### The simulated user's own faults, and membership", "No session of this version is simulated yet."]
    return "\n\n".join(parts)


def _controls(version: str, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    row = next((dict(row) for row in rows if row["version"] == version), None)
    if row is None:
        return ["This version has not been measured yet."]
    row = {**{key: value for key, value in rows[0].items() if key.startswith("disc/power")}, **row}  # of base alone
    lines = [f"| {text} | {row[key]:.2f} |" for key, text in FIGURES.items() if row.get(key) is not None]
    sentences = "\n".join(f"- {sentence}" for sentence in verdicts([row]))
    return ["\n".join(["| how often real and simulated are told apart, by | |", "|---|---|", *lines]), sentences]


def _faults(found: Audited, people: Audited) -> list[str]:
    lines = [
        f"| {KIND_NAMES[kind]} | {percent(found.faults.share(kind))} | {percent(people.faults.share(kind))} |"
        for kind in KINDS
    ]
    whole = f"| **any of these** | {percent(found.faults.share())} | {percent(people.faults.share())} |"
    head = [
        f"| share of sessions | this version ({found.faults.num:,}) | real users ({people.faults.num:,}) |",
        "|---|---|---|",
    ]
    return [
        "\n".join([*head, *lines, whole]),
        "By rules on the text (`rlenv audit`), which miss some and hit a few wrongly. Of real users nobody knows who "
        "ended a session.",
    ]


def _membership(found: Audited, people: Audited) -> list[str]:
    def told(audited: Audited, who: str) -> str:
        run = audited.run
        longest = f"{run.num_words} words" if run.num_words else f"fewer than {SEED_WORDS} words"
        return f"| {who} | {longest} | {run.num_sessions:,} of {audited.faults.num:,} |"

    head = [f"| | longest run | sessions with a run of {LONG_RUN} words or more |", "|---|---|---|"]
    return [
        "Runs of words, verbatim, that stand in the messages of one SFT user and of no other real user:",
        "\n".join([*head, told(found, "this version"), told(people, "real users it was not trained on, by chance")]),
    ]


def _exposure(planted: Sequence[Exposure]) -> list[str]:
    others = [one.bits for one in planted if not one.num_sessions]
    lines = [f"| in {one.num_sessions:,} SFT sessions | {one.bits:.1f} |" for one in planted if one.num_sessions]
    return [
        f"Bits of a sentence that were learnt by heart, of {log2(NUM_CANDIDATES):g} at most: log2 of the number of "
        "candidates minus log2 of its rank among them.",
        "\n".join(["| planted | exposure |", "|---|---|", *lines, f"| nowhere, mean of {len(others)} (1.4 by chance) | "
                   f"{sum(others) / len(others):.1f} |"]),
    ]  # fmt: skip


def percent(share: float | None) -> str:
    """Returns a share for people; a dash without one."""
    return "-" if share is None else f"{share:.1%}"
