"""Imports: the authors' forms become sessions, every field is counted, and neighbours stay unless asked."""

import csv
import gzip
import json
import os
from pathlib import Path

import pytest

from rlenv.core.errors import DataError
from rlenv.data.importers import ChatOptions, ImportOptions, import_annomi, import_chat, import_esconv
from rlenv.data.importers.annomi import COLUMNS
from rlenv.data.sessions import read_sessions, session_dict, write_sessions

DATA = Path(os.environ.get("RLENV_DATA", Path(__file__).parents[4] / "shared" / "data"))
SECRET = "secret words"

ESCONV = [
    {
        "experience_type": "Current Experience",
        "emotion_type": "fear",
        "problem_type": "exam",
        "situation": "An exam is near.",
        "survey_score": {"seeker": {"empathy": "2"}, "supporter": {}},
        "seeker_question1": "Fine.",
        "dialog": [
            {"speaker": "seeker", "annotation": {}, "content": "hello \n"},
            {"speaker": "seeker", "annotation": {"feedback": "2"}, "content": "I am afraid"},
            {"speaker": "supporter", "annotation": {"strategy": "Question"}, "content": " of what?"},
        ],
    },
    {
        "situation": "A move.",
        "dialog": [
            {"speaker": "listener", "annotation": {"strategy": "Others"}, "content": "hi"},
            {"speaker": "speaker", "content": "hi"},
        ],
    },
]


def json_file(path, value):
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def annomi_row(utterance, who, text, **labels):
    row = dict.fromkeys(COLUMNS, "n/a") | {
        "mi_quality": "low",
        "transcript_id": "4",
        "topic": "smoking",
        "utterance_id": str(utterance),
        "interlocutor": who,
        "utterance_text": text,
        "timestamp": "00:00:01",
        "annotator_id": "1",
    }
    return row | {f"{kind}_exists": "False" for kind in ("reflection", "question", "therapist_input")} | labels


def annomi_file(path, rows, columns=COLUMNS):
    with open(path, "w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path


ANNOMI = [
    *(annomi_row(2, "client", 'well, "no"', client_talk_type=talk) for talk in ("sustain", "change", "change")),
    *(
        annomi_row(1, "therapist", "Do you smoke?", main_therapist_behaviour=behaviour, **more)
        for behaviour, more in (
            ("question", {"question_exists": "True", "question_subtype": "open"}),
            ("question", {"question_exists": "True", "question_subtype": "closed"}),
            ("reflection", {"reflection_exists": "True", "reflection_subtype": "simple"}),
            ("reflection", {"question_exists": "True", "question_subtype": "closed"}),
        )
    ),
    annomi_row(3, "client", "hm", client_talk_type="neutral"),
]


# ------------------------------------------------------------------------------------------- esconv


def test_esconv_seekers_are_users_and_strategies_are_actions(tmp_path):
    sessions, report = import_esconv(json_file(tmp_path / "ESConv.json", ESCONV))
    first, second = sessions
    assert [(m.role, m.content, m.actions) for m in first.messages] == [
        ("user", "hello", None),
        ("user", "I am afraid", None),
        ("assistant", "of what?", ("Question",)),
    ]
    assert first.messages[1].model_extra == {"feedback": "2"}
    assert (first.session_id, first.user_id, first.chatbot) == ("esconv-0", "esconv-0", "human")
    assert first.context.situation == "An exam is near."
    assert first.context.model_extra["problem_type"] == "exam"
    assert first.model_extra["outcome"] == {"survey_score": ESCONV[0]["survey_score"], "seeker_question1": "Fine."}
    assert [m.role for m in second.messages] == ["assistant", "user"]
    assert (report.num_sessions, report.num_messages, report.num_neighbours, report.num_merged) == (2, 5, 1, 0)
    assert report.kept == {"messages[].feedback": 1, "context.experience_type": 1}
    assert report.changed == {"messages with white space at their ends removed": 2}


def test_the_failed_sessions_of_esconv_are_marked(tmp_path):
    path = tmp_path / "FailedESConv.json.gz"
    path.write_bytes(gzip.compress(json.dumps(ESCONV).encode()))
    sessions, _ = import_esconv(path)
    assert sessions[0].session_id == "esconv-failed-0"
    assert sessions[1].model_extra["outcome"] == {"failed": True}
    assert "outcome" in import_esconv(path, failed=False)[0][0].model_extra
    assert import_esconv(path, failed=False)[0][0].session_id == "esconv-0"


def test_neighbours_are_merged_and_unknown_fields_dropped_if_requested(tmp_path):
    path = json_file(tmp_path / "ESConv.json", ESCONV)
    sessions, report = import_esconv(path, ImportOptions(merge_neighbours=True, drop_unknown=True))
    assert sessions[0].messages[0].content == "hello\nI am afraid"
    assert (report.num_merged, report.num_messages) == (1, 4)
    assert report.kept == {}
    assert report.dropped == {"messages[].feedback": 1, "context.experience_type": 1}
    assert sessions[0].context.model_extra == {"emotion_type": "fear", "problem_type": "exam"}


def test_every_problem_of_an_esconv_file_is_reported_without_text(tmp_path):
    bad = [
        ESCONV[0],
        {"dialog": SECRET},
        {"dialog": [{"speaker": SECRET, "content": 3}, SECRET, {"speaker": "seeker", "content": "", "annotation": []}]},
        {"dialog": [], "situation": [SECRET]},
    ]
    path = json_file(tmp_path / "ESConv.json", bad)
    with pytest.raises(DataError) as caught:
        import_esconv(path)
    assert [(p.where.rsplit("/", 1)[1], p.field) for p in caught.value.problems] == [
        ("ESConv.json[1]", "dialog"),
        ("ESConv.json[2]", "dialog[0].speaker"),
        ("ESConv.json[2]", "dialog[0].content"),
        ("ESConv.json[2]", "dialog[1]"),
        ("ESConv.json[2]", "dialog[2].annotation"),
        ("ESConv.json[3]", "context.situation"),
    ]
    assert SECRET not in str(caught.value)
    sessions, report = import_esconv(path, ImportOptions(skip_bad=True))
    assert ([s.session_id for s in sessions], len(report.problems)) == (["esconv-0"], 6)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"[1", b'{"session_id": "a"}\n{"session_id": "b"}', b"\xff"])
def test_a_file_that_is_not_the_authors_esconv_is_a_problem(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(DataError):
        import_esconv(tmp_path / "x.json")
    with pytest.raises(DataError, match="no file with this name"):
        import_esconv(tmp_path / "none.json")


# ------------------------------------------------------------------------------------------- annomi


def test_annomi_labels_are_those_of_most_annotators(tmp_path):
    (session,), report = import_annomi(annomi_file(tmp_path / "AnnoMI-full.csv", ANNOMI))
    asked, answered, last = session.messages
    assert (session.session_id, session.model_extra["outcome"]) == ("annomi-4", {"mi_quality": "low"})
    assert (asked.role, asked.content, asked.actions) == ("assistant", "Do you smoke?", ("question",))
    assert asked.model_extra["sub_actions"] == ["question:closed"]
    assert asked.model_extra["action_votes"] == ["question", "question", "reflection", "reflection"]
    assert (answered.role, answered.content, answered.actions) == ("user", 'well, "no"', ("change",))
    assert answered.model_extra["action_votes"] == ["sustain", "change", "change"]
    assert last.model_extra == {"utterance_id": 3, "timestamp": "00:00:01"}
    assert report.changed == {"utterances whose annotators tied (first label taken)": 1}
    assert report.dropped == {"annotator_id": 8}
    assert (report.num_neighbours, report.num_merged) == (1, 0)


def test_every_problem_of_an_annomi_file_is_reported_without_text(tmp_path):
    rows = [
        annomi_row(1, "client", SECRET, client_talk_type="change"),
        annomi_row(1, "client", SECRET + "!", client_talk_type="change"),
        annomi_row("x", "client", SECRET),
        annomi_row(5, SECRET, SECRET),
        annomi_row(0, "client", "fine", client_talk_type="neutral", transcript_id="5"),
    ]
    path = annomi_file(tmp_path / "a.csv", rows)
    with pytest.raises(DataError) as caught:
        import_annomi(path)
    assert [(p.where.rsplit("/", 1)[1], p.field) for p in caught.value.problems] == [
        ("a.csv:3", "utterance_text"),
        ("a.csv:4", "utterance_id"),
        ("a.csv:5", "interlocutor"),
    ]
    assert SECRET not in str(caught.value)
    sessions, _ = import_annomi(path, ImportOptions(skip_bad=True))
    assert [s.session_id for s in sessions] == ["annomi-5"]


def test_a_csv_of_another_kind_is_a_problem(tmp_path):
    with pytest.raises(DataError, match="main_therapist_behaviour: expected these columns"):
        import_annomi(annomi_file(tmp_path / "a.csv", ANNOMI, COLUMNS[:-1]))
    with pytest.raises(DataError, match="at least one row"):
        import_annomi(annomi_file(tmp_path / "b.csv", []))
    (tmp_path / "c.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match="UTF-8"):
        import_annomi(tmp_path / "c.csv")
    cut = annomi_file(tmp_path / "d.csv", ANNOMI)
    cut.write_text(cut.read_text(encoding="utf-8") + "low,9", encoding="utf-8")
    with pytest.raises(DataError, match="too few cells"):
        import_annomi(cut)


# -------------------------------------------------------------------------------------- neutral form


SEEKERS = ChatOptions(roles={"seeker": "user"})
NEUTRAL = {
    "session_id": 12,
    "user_id": None,
    "domain": "test",
    "chatbot": "bot-a",
    "split": "train",
    "context": {"profile": None, "topic": "x", "generated": None},
    "messages": [
        {"role": "seeker", "content": "a", "votes": {"O": 1}},
        {"role": "user", "content": "b", "actions": None},
        {"role": "assistant", "content": "", "issues": ["silence"]},
    ],
    "outcome": {"score": 1},
}


def test_the_neutral_form_keeps_unknown_fields_and_counts_them(tmp_path):
    path = json_file(tmp_path / "n.jsonl", NEUTRAL)
    (session,), report = import_chat(path, chat=SEEKERS)
    assert (session.session_id, session.user_id) == ("12", "12")
    assert session.model_extra == {"domain": "test", "split": "train", "outcome": {"score": 1}}
    assert session.messages[0].model_extra == {"votes": {"O": 1}}
    assert report.kept == {"split": 1, "context.topic": 1, "messages[].votes": 1}
    assert report.changed == {
        "session_id: number to text": 1,
        "user_id: null left out": 1,
        "context.generated: null left out": 1,
        "messages[].role: 'seeker' to 'user'": 1,
    }


def test_the_neutral_form_loses_unknown_fields_only_if_requested_and_counts_them(tmp_path):
    path = json_file(tmp_path / "n.jsonl", NEUTRAL)
    (session,), report = import_chat(path, ImportOptions(drop_unknown=True), SEEKERS)
    assert session.model_extra == {"domain": "test", "outcome": {"score": 1}}
    assert report.dropped == {"split": 1, "context.topic": 1, "messages[].votes": 1}
    assert len(session.messages) == 3


def test_roles_are_never_guessed_and_ids_never_shared(tmp_path):
    with pytest.raises(DataError, match="did you mean 'user'"):
        import_chat(json_file(tmp_path / "n.jsonl", NEUTRAL))
    (tmp_path / "two.jsonl").write_text(2 * '{"session_id": "a", "messages": []}\n')
    with pytest.raises(DataError, match="a unique id"):
        import_chat(tmp_path / "two.jsonl")


# ------------------------------------------------------------------------- the authors' files, if here


@pytest.mark.skipif(not (DATA / "raw").is_dir(), reason="the authors' files are not here (set RLENV_DATA)")
@pytest.mark.parametrize(
    ("importer", "raw", "neutral", "num_masked"),
    [
        (import_esconv, "FailedESConv.json.gz", "esconv_failed.jsonl.gz", 1),
        (import_annomi, "AnnoMI-full.csv.gz", "annomi.jsonl.gz", 0),
    ],
)
def test_the_authors_files_become_the_neutral_ones(tmp_path, importer, raw, neutral, num_masked):
    sessions, _ = importer(DATA / "raw" / raw)
    with gzip.open(DATA / neutral, "rt", encoding="utf-8") as file:
        expected = [json.loads(line) for line in file]
    ours = [json.loads(json.dumps(session_dict(session))) for session in sessions]
    assert len(ours) == len(expected)
    assert sum(a != b for a, b in zip(ours, expected, strict=True)) == num_masked
    write_sessions(tmp_path / "s.jsonl.gz", sessions)
    assert read_sessions(tmp_path / "s.jsonl.gz", neighbours="keep") == sessions
