"""Labels of other vocabularies: maps to the taxonomy's, and counts of those that it does not have.

A label map translates label names. Maps are YAML: ``{kind: {label: [category, ...]}}`` in a file of the user's, or a
named one of ``rlenv/data/label_maps.yaml``. Independent of who labelled.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from rlenv.core.errors import DataError, Problem, did_you_mean, there_are
from rlenv.core.files import describe
from rlenv.core.plain_yaml import read_yaml, unreadable_yaml
from rlenv.core.taxonomy import Taxonomy
from rlenv.core.types import Message, Role, Session

MAPS_FILE = Path(__file__).with_name("label_maps.yaml")
KIND_OF_ROLE: dict[Role, str] = {"user": "actions", "assistant": "issues"}
KINDS = tuple(KIND_OF_ROLE.values())
LabelMap = dict[str, dict[str, tuple[str, ...]]]
"""For each kind, a label and the labels of another vocabulary that correspond to it."""
MAX_LABELS = 20
"""The number of labels outside the taxonomy that notes name, by kind."""
MAX_LABEL_CHARS = 40


def load_label_map(name: str) -> LabelMap:
    """Returns the map ``name`` of ``label_maps.yaml``, or the one in a YAML file.

    Raises:
        DataError: there is no such map or file, or it does not have this form.
    """
    file = Path(name) if name.endswith((".yaml", ".yml")) else MAPS_FILE
    try:
        data = read_yaml(file.read_text("utf-8-sig"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError([unreadable_yaml(file, error)]) from error
    if file == MAPS_FILE:
        if name not in data:
            raise DataError([Problem(str(file), expected=f"a map named {name!r}", came=there_are(data, name))])
        data = data[name]
    return _checked(data, file)


def with_mapped_labels(session: Session, label_map: LabelMap) -> Session:
    """Returns the session with its labels translated; those that the map does not have stay.

    A label with several counterparts becomes all of them.
    """
    return session.model_copy(update={"messages": tuple(_mapped(message, label_map) for message in session.messages)})


def foreign_labels(sessions: Iterable[Session], taxonomy: Taxonomy) -> dict[str, Counter[str]]:
    """Returns for each kind the labels outside the taxonomy, with the number of messages that carry each."""
    known = {"actions": set(taxonomy.action_ids()), "issues": set(taxonomy.issue_ids())}
    found = {kind: Counter[str]() for kind in KINDS}
    for session in sessions:
        for message in session.messages:
            kind = KIND_OF_ROLE[message.role]
            found[kind].update(set(getattr(message, kind) or ()) - known[kind])
    return found


def with_known_actions(sessions: Sequence[Session], taxonomy: Taxonomy) -> list[Session]:
    """Returns the sessions with the taxonomy's actions alone.

    Where no user message has one of them, but some have others, people used another vocabulary: then the user messages
    count as not annotated, because a rate of 0 would be wrong.
    """
    known = set(taxonomy.action_ids())
    used = {action for s in sessions for m in s.messages if m.role == "user" for action in m.actions or ()}
    if used <= known:
        return list(sessions)
    is_other = not used & known

    def kept(message: Message) -> Message:
        if message.role != "user" or message.actions is None:
            return message
        actions = None if is_other else tuple(action for action in message.actions if action in known)
        return message.model_copy(update={"actions": actions})

    return [s.model_copy(update={"messages": tuple(kept(m) for m in s.messages)}) for s in sessions]


def foreign_label_notes(found: Mapping[str, Counter[str]], taxonomy: Taxonomy) -> list[str]:
    """Returns one sentence for each label outside the taxonomy, and one that says what to do."""
    known = {"actions": taxonomy.action_ids(), "issues": taxonomy.issue_ids()}
    notes = []
    for kind, counts in found.items():
        ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        notes += [
            f"{kind}: {shown_label(label)} is not in the taxonomy; {_carry(num)} it{did_you_mean(known[kind], label)}"
            for label, num in ranked[:MAX_LABELS]
        ]
        if others := ranked[MAX_LABELS:]:
            notes.append(f"{kind}: {len(others):,} further labels are not in the taxonomy")
    if notes:
        notes.append(
            "of labels outside the taxonomy, issues count in the issue rates alone, and actions not at all. Give a "
            "--map to the taxonomy's names, or a --taxonomy of your own"
        )
    return notes


def shown_label(label: str) -> str:
    """Returns a label in quotes, on one line and cut, since some files have whole sentences there."""
    shown = "".join(c if c.isprintable() else "?" for c in label)
    return repr(shown if len(shown) <= MAX_LABEL_CHARS else shown[: MAX_LABEL_CHARS - 3] + "...")


def _carry(num: int) -> str:
    return f"{num:,} message{'s carry' if num != 1 else ' carries'}"


def _mapped(message: Message, label_map: LabelMap) -> Message:
    kind = KIND_OF_ROLE[message.role]
    labels, translation = getattr(message, kind), label_map.get(kind, {})
    if not labels or translation.keys().isdisjoint(labels):
        return message
    new = dict.fromkeys(category for label in labels for category in translation.get(label, (label,)))
    return message.model_copy(update={kind: tuple(new)})


def _checked(data: Any, file: Path) -> LabelMap:
    form = "label: [category, ...]"
    if not isinstance(data, dict) or not data:
        raise DataError([Problem(str(file), expected=f"actions or issues, each with {form}", came=describe(data))])
    problems = []
    for kind, labels in data.items():
        if kind not in KINDS:
            problems.append(Problem(str(file), None, str(kind), "actions or issues", "another key"))
        elif not isinstance(labels, dict):
            problems.append(Problem(str(file), None, kind, form, describe(labels)))
        else:
            problems += [
                Problem(str(file), None, f"{kind}.{label}", "at least one, as [category, ...]", describe(others))
                for label, others in labels.items()
                if not isinstance(others, list) or not others or not all(isinstance(o, str | int) for o in others)
            ]
    if problems:
        raise DataError(problems)
    return {kind: {str(t): tuple(map(str, o)) for t, o in labels.items()} for kind, labels in data.items()}
