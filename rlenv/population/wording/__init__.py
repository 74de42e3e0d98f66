"""Loads the wording of the population from the YAML files of this folder, once per process.

A ``Concern`` is a problem that brings a user here, with its facts; a pool has the lines of one reaction or move.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from rlenv.core.types import Record

CONCERN_FILES = ("concerns_work.yaml", "concerns_people.yaml", "concerns_self.yaml", "concerns_more.yaml")


class Fact(Record):
    """One fact that a user can disclose, in several wordings."""

    fact_id: str
    kind: str
    """open, event, person, feel, effect, tried, thought, history, worry, wish, good, small or vague."""
    label: str
    """Its subject in a few words, for summaries."""
    lines: tuple[str, ...]


class Concern(Record):
    """A problem that brings a user to the chatbot."""

    concern_id: str
    name: str
    topic: str
    gist: str
    roles: tuple[str, ...]
    """Possible relations of the main person to the user, as ``role``, ``role:f`` or ``role:m``."""
    slots: dict[str, tuple[str, ...]]
    facts: tuple[Fact, ...]


WORDING_FILES = (*CONCERN_FILES, "shared.yaml", "reactions.yaml", "chatbot.yaml")
"""Files with the lines of users and chatbots."""


@cache
def load(file: str) -> dict[str, Any]:
    """Returns the content of a wording file as plain data."""
    return yaml.safe_load((files(__name__) / file).read_text("utf-8"))


@cache
def concerns() -> dict[str, Concern]:
    """Returns all concerns by id, in a fixed order."""
    found = {}
    for file in CONCERN_FILES:
        for concern_id, data in load(file).items():
            found[concern_id] = Concern(
                concern_id=concern_id,
                name=data["name"],
                topic=data["topic"],
                gist=data["gist"],
                roles=tuple(data["who"].split()),
                slots=_options(data["slots"]),
                facts=_facts(concern_id, data["facts"]),
            )
    return found


@cache
def shared_facts() -> tuple[Fact, ...]:
    """Returns the facts that any user can have."""
    return _facts("shared", load("shared.yaml")["facts"])


@cache
def update_facts() -> tuple[Fact, ...]:
    """Returns the facts that users disclose first when they return for a later session."""
    return _facts("update", load("shared.yaml")["updates"])


@cache
def shared_slots() -> dict[str, tuple[str, ...]]:
    """Returns the options of the slots that every user has."""
    return _options(load("shared.yaml")["slots"])


@cache
def first_names(gender: str) -> tuple[str, ...]:
    """Returns first names for ``f`` or ``m``."""
    return tuple(load("shared.yaml")["names"][gender].split())


@cache
def pool(file: str, name: str) -> tuple[str, ...]:
    """Returns the lines of a pool, for example ``pool("reactions.yaml", "angry")``."""
    return _lines(load(file)[name])


@cache
def all_texts() -> str:
    """Returns all templates of all files as one text."""
    return "\n".join(text for file in WORDING_FILES for text in _strings(load(file)))


def _strings(data: Any) -> list[str]:
    if isinstance(data, dict):
        return [text for pair in data.items() for part in pair for text in _strings(part)]
    return [text for part in data for text in _strings(part)] if isinstance(data, list) else [str(data)]


def _facts(prefix: str, data: dict[str, str]) -> tuple[Fact, ...]:
    facts = []
    for key, text in data.items():
        kind, label = key.split("/", 1)
        facts.append(Fact(fact_id=f"{prefix}/{key}", kind=kind, label=label, lines=_lines(text)))
    return tuple(facts)


def _options(data: dict[str, Any]) -> dict[str, tuple[str, ...]]:
    return {name: tuple(str(text).split("|")) for name, text in data.items()}


def _lines(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.splitlines() if line.strip())
