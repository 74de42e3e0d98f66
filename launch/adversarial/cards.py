"""Model cards: what an adapter of a run was trained on, how, what it is for and what not; counts and never text.

The phase that trains an adapter writes its card beside the weights (README.md). What is known of it only later, such as
the verdict of the controls, is not in there, because the folder of a finished phase never changes; ``rlenv card RUN``
gives the complete card (``launch.privacy.cards``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from launch.run.config.data import DataConfig
from launch.run.config.run import RunConfig
from launch.run.contents import FURTHER_SFT, newest_taken, version_names
from launch.run.directory import RunDirectory
from rlenv.core.adapters import CARD
from rlenv.core.files import read_json, write_text
from rlenv.core.settings import to_dict
from rlenv.version import __version__

Rows = Mapping[str, Any]

SIMULATOR_USE = """\
It writes the messages of a distressed person who talks to a mental-health support chatbot, so that chatbots can be
evaluated and developed without exposing people to their faults. It is made for that alone.

**It is not for use with patients, or with anybody who seeks support**: it gives none, and what it writes can be
distressing to read. It is no evidence about any person."""
CHATBOT_USE = """\
It answers as a mental-health support chatbot, for research with simulated users.

**It is not for use with patients, or with anybody who seeks support**: nobody has tested it with people."""
MISUSE = """\
From the ethical considerations of the paper (*Adversarial Training for Failure-Sensitive User Simulation in Mental
Health Dialogue Optimization*):

- Realistic user simulators could be misused to train systems that are optimised for engagement over the wellbeing of
  users, or to manipulate vulnerable people. Do not use this one so.
- Simulators that are trained on real conversations may carry on the biases of their data and put some groups of people
  at a disadvantage.
- Use them with oversight and ethical review. They complement people's feedback and do not replace it, above all for new
  interventions and rare cases.

A model can repeat what it was trained on. Where it was trained on real conversations, guard this folder as you guard
them."""
LATER = """\
Not known when this file was written. `rlenv card RUN --version {version}` gives the complete card, with the verdict of
the run's controls, the simulator's own faults and the membership check."""
SETTINGS_NOT_SHOWN = {"save_every", "logging_steps"}


def write_card(folder: Path, text: str) -> None:
    """Writes a card beside an adapter's weights."""
    write_text(folder / CARD, text)


def simulator_card(
    directory: RunDirectory, config: RunConfig, version: str, reference: str | None = None, found: str | None = None
) -> str:
    """Returns the card of a simulator's version, in Markdown.

    Args:
        directory: the run.
        config: its settings.
        version: base, it1, ... or further_sft.
        reference: the version that its training started from; None finds it by the verdicts of the run.
        found: what the run found out about the version, as sections in Markdown; None says where to get it.
    """
    rows = {"base model": config.simulator.model, "learnt seat": "the user's"}
    if version in ("base", FURTHER_SFT):
        part = "adversarial" if version == FURTHER_SFT else "sft"
        rows |= {"method": "supervised fine-tuning on the users' messages (Eq. 1 of the paper)"}
        rows |= {"started from": "base"} if part == "adversarial" else {}
        section, settings = "sft", to_dict(config.sft)
        trained_on = {**data_rows(config.data), **_sessions(directory, config.data, part)}
    else:
        reference = reference or _reference(directory, config, version)
        rows |= {
            "method": "Direct Preference Optimization against a discriminator of real and simulated sessions (Eq. 5)",
            "started from": reference,
        }
        section, settings = "dpo", to_dict(config.dpo)
        after = FURTHER_SFT in _earlier(config, version)
        further = _sessions(directory, config.data, "adversarial") if after else {}
        trained_on = {
            **data_rows(config.data),
            f"sessions that {reference} simulated, of contexts of the adversarial users": _count(
                directory, f"{reference}/simulated", "sessions"
            ),
            "preference pairs kept": _count(directory, f"{reference}/preferences", "kept"),
            **{f"base: {key}": value for key, value in _sessions(directory, config.data, "sft").items()},
            **{f"{FURTHER_SFT}: {key}": value for key, value in further.items()},
        }
    return _card(
        f"{config.name} {version}",
        config.simulator.model,
        SIMULATOR_USE,
        rows,
        trained_on,
        section,
        settings,
        ["user-simulation"],
        LATER.format(version=version) if found is None else found,
    )


def chatbot_card(name: str, model: str, method: str, trained_on: Rows, section: str, settings: Rows) -> str:
    """Returns the card of a chatbot's adapter, in Markdown."""
    rows = {"base model": model, "learnt seat": "the chatbot's", "method": method}
    return _card(name, model, CHATBOT_USE, rows, trained_on, section, settings, ["chatbot"], None)


def data_rows(data: DataConfig) -> dict[str, Any]:
    """Returns where the sessions of a run come from."""
    if data.path is None:
        return {"source": "the synthetic reference population of rlenv; no person's conversations"}
    return {"source": "conversations of a sessions file"}


def _card(
    name: str,
    model: str,
    use: str,
    rows: Rows,
    trained_on: Rows,
    section: str,
    settings: Rows,
    tags: Sequence[str],
    found: str | None,
) -> str:
    shown = {f"{section}.{key}": value for key, value in settings.items() if key not in SETTINGS_NOT_SHOWN}
    head = {
        "base_model": Path(model).name if model.startswith(("/", ".", "~")) else model,  # never a path of this machine
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["rlenv", "lora", *tags],
    }
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---",
        f"# {name}",
        use,
        "## Training",
        _table({**rows, "base model": head["base_model"], "trained with": f"rlenv {__version__}"}),
        "## Data",
        _table(trained_on),
        "## Misuse and limits",
        MISUSE,
        *(["## What the run found", found] if found is not None else []),
        "## Settings",
        _table(shown),
    ]
    return "\n\n".join(parts) + "\n"


def _table(rows: Rows) -> str:
    def cell(value: Any) -> str:
        return "-" if value is None else f"{value:,}" if type(value) is int else str(value).replace("|", "\\|")

    return "\n".join(["| | |", "|---|---|", *(f"| {key} | {cell(value)} |" for key, value in rows.items())])


def _sessions(directory: RunDirectory, data: DataConfig, part: str) -> dict[str, Any]:
    """Returns how many sessions and users of a part of the data an SFT had."""
    sessions = _count(directory, "data", f"{part}_sessions")
    if part == "sft" and sessions is not None:
        sessions = min(sessions, data.max_sft_sessions or sessions)
    return {
        "real sessions": sessions,
        "their users, at most": _count(directory, "data", f"{part}_users"),
        "scrubbed sessions among all data of the run": _count(directory, "data", "scrubbed"),
    }


def _count(directory: RunDirectory, phase: str, key: str) -> int | None:
    path = directory.path(f"{phase}/counts.json")
    found = read_json(path).get(key) if path.exists() else None
    return found if isinstance(found, int) else None


def _reference(directory: RunDirectory, config: RunConfig, version: str) -> str:
    """Returns the version that a version was trained from: the newest before it that was taken."""
    return newest_taken(directory, _earlier(config, version))


def _earlier(config: RunConfig, version: str) -> list[str]:
    names = version_names(config)
    return names[: names.index(version)]
