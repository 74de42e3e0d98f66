"""Labels of other vocabularies: maps, counts, and what is left of them."""

import pytest

from rlenv.core.errors import DataError
from rlenv.core.taxonomy import load_taxonomy
from rlenv.core.types import Message, Session
from rlenv.data.labels import (
    MAX_LABELS,
    foreign_label_notes,
    foreign_labels,
    load_label_map,
    with_known_actions,
    with_mapped_labels,
)

TAXONOMY = load_taxonomy()


def session(*messages: tuple[str, tuple[str, ...] | None]) -> Session:
    """Returns a session of (role, labels)."""
    made = tuple(
        Message(role="user", content="x", actions=labels)
        if role == "user"
        else Message(role="assistant", content="x", issues=labels)
        for role, labels in messages
    )
    return Session(session_id="s", messages=made)


def test_a_map_translates_labels_of_its_kind_and_keeps_the_others(tmp_path):
    path = tmp_path / "map.yaml"
    path.write_text("actions: {C: [change_talk], no: [greets, says_goodbye]}\nissues: {lack of empathy: [crash]}\n")
    given = session(("user", ("C", "S")), ("assistant", ("lack of empathy", "C")), ("user", ("no", "greets")))
    found = with_mapped_labels(given, load_label_map(str(path)))
    assert [m.actions for m in found.messages] == [("change_talk", "S"), None, ("greets", "says_goodbye")]
    assert found.messages[1].issues == ("crash", "C")


@pytest.mark.parametrize(
    "text", ["actions: [C]", "moods: {C: [x]}", "actions: {C: x}", "a: [1", "actions: {C: }", "- 1"]
)
def test_a_map_of_another_form_is_refused_with_its_file(tmp_path, text):
    path = tmp_path / "map.yaml"
    path.write_text(text)
    with pytest.raises(DataError, match=r"map\.yaml"):
        load_label_map(str(path))


def test_foreign_labels_are_counted_by_message_and_told_in_one_line_each():
    sessions = [session(("user", ("N", "N", "greets")), ("assistant", ("greet",))), session(("user", ("N",)))]
    assert foreign_label_notes(foreign_labels(sessions, TAXONOMY), TAXONOMY)[:2] == [
        "actions: 'N' is not in the taxonomy; 2 messages carry it",
        "issues: 'greet' is not in the taxonomy; 1 message carries it",
    ]
    near = foreign_labels([session(("user", ("greet",)))], TAXONOMY)
    assert "did you mean 'greets'?" in foreign_label_notes(near, TAXONOMY)[0]
    assert foreign_label_notes(foreign_labels([session(("user", ("greets",)))], TAXONOMY), TAXONOMY) == []


def test_many_foreign_labels_and_long_ones_do_not_fill_the_screen():
    many = foreign_labels([session(("user", tuple(f"x{i}" for i in range(300))), ("user", ("y" * 500,)))], TAXONOMY)
    notes = foreign_label_notes(many, TAXONOMY)
    assert len(notes) == MAX_LABELS + 2 and all(len(note) < 220 for note in notes)


def test_actions_of_another_vocabulary_count_as_not_annotated_and_a_few_unknown_ones_are_left_out():
    other = with_known_actions([session(("user", ("N",)), ("user", ()))], TAXONOMY)
    assert [m.actions for m in other[0].messages] == [None, None]
    mixed = with_known_actions([session(("user", ("N",)), ("user", ("greets", "N")), ("user", None))], TAXONOMY)
    assert [m.actions for m in mixed[0].messages] == [(), ("greets",), None]
