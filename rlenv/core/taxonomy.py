"""The taxonomy of annotations, read from an editable file: user actions (Appendix D), chatbot issues (Appendix E).

The paper prints examples of both; taxonomy.yaml has all of these, and more up to the sizes that the paper names (20+
and 35+). Independent of the annotator: a judge model, a person, or the population's oracle.
"""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from rlenv.core.errors import DataError, Problem
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


LabelId = Annotated[str, Field(pattern=r"^\S(?:[^\r\n\t]*\S)?$")]
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
        if not isinstance(data, dict):
            raise DataError([Problem(str(path), expected="actions and issues", came=type(data).__name__)])
        wrong = [
            Problem(str(path), None, f"{kind}.{group}", "categories as id: [name, description]", describe(categories))
            for kind in ("actions", "issues")
            if isinstance(data.get(kind), dict)
            for group, categories in data[kind].items()
            if not isinstance(categories, dict | type(None))
        ]
        if wrong:
            raise DataError(wrong)
        return Taxonomy.model_validate({kind: _flat(data.get(kind)) for kind in ("actions", "issues")})
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError([unreadable_yaml(path, error)]) from error
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False, include_input=False)
        raise DataError(
            [Problem(str(path), field=".".join(map(str, d["loc"])), sentence=str(d["msg"])) for d in details]
        ) from error


def _flat(groups: Any) -> list[dict[str, Any]]:
    """Returns ``{group: {id: [name, description]}}`` as a list of categories."""
    if not isinstance(groups, dict):
        return []
    rows = []
    for group, categories in groups.items():
        for category_id, pair in (categories or {}).items():
            name, description = pair if isinstance(pair, list) and len(pair) == 2 else (None, None)
            rows.append({"id": str(category_id), "name": name, "group": group, "description": description})
    return rows
