"""The taxonomy of annotations, read from an editable file: user actions (Appendix D), chatbot issues (Appendix E).

The paper prints examples of both; taxonomy.yaml has all of these, and more up to the sizes that the paper names (20+
and 35+). Independent of the annotator: a judge model, a person, or the population's oracle.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import Field, ValidationError, model_validator

from rlenv.core.errors import DataError, Problem, did_you_mean, there_are
from rlenv.core.files import describe
from rlenv.core.plain_yaml import read_yaml, unreadable_yaml
from rlenv.core.types import Record

ActionGroup = Literal["good", "bad", "user_features", "moderators"]
IssueGroup = Literal[
    "user_distress", "user_confusion", "user_frustration", "user_losing_trust", "policy_violation", "app_bug"
]
GROUP_NAMES: dict[ActionGroup | IssueGroup, str] = {
    "good": "Good indicators",
    "bad": "Bad indicators",
    "user_features": "User features",
    "moderators": "Moderators",
    "user_distress": "User Distress",
    "user_confusion": "User Confusion",
    "user_frustration": "User Frustration",
    "user_losing_trust": "User Losing Trust",
    "policy_violation": "Chatbot Violates Policies",
    "app_bug": "App Bugs",
}
"""As the paper prints them (Table 4 and Appendix E)."""
DEFAULT_FILE = Path(__file__).with_name("taxonomy.yaml")


GROUPS = {"actions": get_args(ActionGroup), "issues": get_args(IssueGroup)}
"""The groups of each kind."""
LABEL_FORM = r"^\S(?:[^\r\n\t]*\S)?$"
LabelId = Annotated[str, Field(pattern=LABEL_FORM)]
"""What sessions carry: one line of text without blanks at its ends, so that a data set's own labels can be ids."""


class Action(Record):
    """One category of user action (Appendix D)."""

    id: LabelId
    name: str
    group: ActionGroup
    description: str


class Issue(Record):
    """One category of chatbot issue (Appendix E)."""

    id: LabelId
    name: str
    group: IssueGroup
    description: str


class Taxonomy(Record):
    """All categories, in the order of the file."""

    actions: tuple[Action, ...] = Field(min_length=1)
    issues: tuple[Issue, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _ids_are_unique(self) -> Taxonomy:
        for kind in ("actions", "issues"):
            twice = [i for i, n in Counter(c.id for c in getattr(self, kind)).items() if n > 1]
            if twice:
                raise ValueError(f"{kind}: ids used more than once: {', '.join(sorted(twice))}; make them unique")
        return self

    def action_ids(self, group: ActionGroup | None = None) -> tuple[str, ...]:
        """Returns the ids of the user actions, of one group or of all."""
        return tuple(a.id for a in self.actions if group in (None, a.group))

    def issue_ids(self, group: IssueGroup | None = None) -> tuple[str, ...]:
        """Returns the ids of the issues, of one group or of all."""
        return tuple(i.id for i in self.issues if group in (None, i.group))


def load_taxonomy(path: str | Path | None = None) -> Taxonomy:
    """Returns the taxonomy of a YAML file; None means the one that ships with the package.

    Raises:
        DataError: the file is not a valid taxonomy; has every problem of it.
    """
    return _default() if path is None else _read(Path(path))


@cache
def _default() -> Taxonomy:
    return _read(DEFAULT_FILE)


def _read(path: Path) -> Taxonomy:
    try:
        data = read_yaml(path.read_text("utf-8-sig"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError([unreadable_yaml(path, error)]) from error
    if not isinstance(data, dict):
        raise DataError([Problem(str(path), expected="actions and issues", came=describe(data))])
    problems = list(_problems(path, data))
    if problems:
        raise DataError(problems)
    try:
        return Taxonomy.model_validate({kind: _flat(data[kind]) for kind in GROUPS})
    except ValidationError as error:  # ids that stand twice
        raise DataError([Problem(str(path), sentence=str(d["msg"])) for d in error.errors(include_url=False)]) from None


def _problems(path: Path, data: dict[Any, Any]) -> Iterator[Problem]:
    """Yields what is wrong with the form of ``{kind: {group: {id: [name, description]}}}``, each with its key."""

    def problem(field: str, expected: str, came: object, hint: str = "") -> Problem:
        return Problem(str(path), None, field, expected, describe(came), hint)

    for kind in sorted(set(map(str, data)) - {*GROUPS}):
        yield Problem(str(path), None, kind, "actions and issues alone", f"another key{did_you_mean(GROUPS, kind)}")
    for kind, known in GROUPS.items():
        groups = data.get(kind)
        if not isinstance(groups, dict) or not any(groups.values()):
            yield problem(kind, "groups of categories", groups, "add at least one category")
            continue
        for group, categories in groups.items():
            place = f"{kind}.{group}"
            if group not in known:
                yield Problem(str(path), None, place, "a group of the paper", "another one", there_are(known, group))
            if not isinstance(categories, dict | None):
                yield problem(place, "categories as id: [name, description]", categories)
                continue
            for category, pair in (categories or {}).items():
                if not re.fullmatch(LABEL_FORM, str(category)):
                    yield problem(
                        f"{place}.{category!r}", "an id of one line without blanks at its ends", str(category)
                    )
                if not isinstance(pair, list) or len(pair) != 2 or not all(isinstance(text, str) for text in pair):
                    parts = "a list of other values" if isinstance(pair, list) and len(pair) == 2 else describe(pair)
                    yield Problem(str(path), None, f"{place}.{category}", "[name, description], two texts", parts)


def _flat(groups: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns ``{group: {id: [name, description]}}`` as a list of categories."""
    return [
        {"id": str(category), "name": name, "group": group, "description": description}
        for group, categories in groups.items()
        for category, (name, description) in (categories or {}).items()
    ]
