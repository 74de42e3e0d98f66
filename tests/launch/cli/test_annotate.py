"""The commands ``rlenv taxonomy``, ``annotate`` and ``agreement``, run as a user runs them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer
from typer.testing import CliRunner

from launch.cli import annotate as annotate_commands
from rlenv.core.taxonomy import load_taxonomy
from rlenv.core.types import Session
from rlenv.data.sessions import read_sessions, write_sessions
from rlenv.population.corpus import generate_sessions


def rlenv(*args):
    app = typer.Typer(pretty_exceptions_enable=False)
    app.callback()(lambda: None)
    annotate_commands.register(app)
    result = CliRunner(env={"COLUMNS": "300"}).invoke(app, [str(arg) for arg in args])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    return result.exit_code, result.stdout, result.stderr


def test_the_taxonomy_is_copied_edited_and_printed(tmp_path):
    own = tmp_path / "own.yaml"
    assert rlenv("taxonomy", "--copy-to", own)[0] == 0
    assert load_taxonomy(own) == load_taxonomy()
    own.write_text(own.read_text().replace("\n  app_bug:\n", "\n  app_bug:\n    crash: [Crash, It crashes.]\n"))
    code, out, _ = rlenv("taxonomy", own)
    assert code == 0 and "App Bugs" in out and "It crashes." in out
    code, _, err = rlenv("taxonomy", "--copy-to", own)
    assert (code, "this file exists" in err) == (1, True)
    own.write_text(own.read_text().replace("app_bug", "bugs"))
    code, _, err = rlenv("taxonomy", own)
    assert code == 1 and "own.yaml" in err and "issues.bugs" in err and "user_distress" in err


def unlabelled(sessions: Sequence[Session]) -> list[Session]:
    """Returns the sessions without issue labels."""
    return [
        s.model_copy(update={"messages": tuple(m.model_copy(update={"issues": None}) for m in s.messages)})
        for s in sessions
    ]


def test_annotate_adds_and_marks_missing_labels_and_keeps_labels_given_by_people(tmp_path: Path) -> None:
    truth = generate_sessions(8, 1, seed=3)
    bare, half, out = tmp_path / "bare.jsonl", tmp_path / "half.jsonl", tmp_path / "out.jsonl"
    write_sessions(bare, unlabelled(truth))
    assert rlenv("annotate", bare, out, "--judge", "oracle")[0] == 0
    done = read_sessions(out, neighbours="keep")
    chatbot = [m for s in done for m in s.messages if m.role == "assistant"]
    assert all(m.issues is not None and m.generated == ("issues",) for m in chatbot)
    assert all(s.judges["issues"].startswith("population oracle") for s in done)
    assert not any("issues" in m.generated for s in done for m in s.messages if m.role == "user")

    write_sessions(half, [*truth[:4], *unlabelled(truth[4:])])
    code, shown, _ = rlenv("annotate", half, out, "--judge", "detectors")
    assert code == 0 and "labels given by people, kept" in shown
    again = read_sessions(out, neighbours="keep")
    assert [s.messages for s in again[:4]] == [s.messages for s in truth[:4]]
    assert all("issues" in m.generated for s in again[4:] for m in s.messages if m.role == "assistant")


def test_agreement_with_a_judge_covers_only_what_the_judge_labels(tmp_path: Path) -> None:
    truth = generate_sessions(8, 1, seed=3)
    file, other = tmp_path / "truth.jsonl", tmp_path / "oracle.jsonl"
    write_sessions(file, truth)
    code, shown, _ = rlenv("agreement", file, "--judge", "oracle")
    assert code == 0 and "kappa" in shown
    actions = {a for s in truth for m in s.messages for a in m.actions or ()}
    assert actions and not any(f" {action} " in shown for action in actions)
    write_sessions(other, truth)
    code, shown, _ = rlenv("agreement", file, other)
    assert code == 0 and any(f" {action} " in shown for action in actions) and "1.000" in shown


def test_comparing_labels_with_themselves_is_refused_or_warned_about(tmp_path: Path) -> None:
    truth = generate_sessions(4, 1, seed=3)
    file, copy, judged, again = (tmp_path / f"{name}.jsonl" for name in ("truth", "copy", "judged", "again"))
    write_sessions(file, truth)
    write_sessions(copy, truth)
    for same in (file, tmp_path / "." / file.name):
        code, _, error = rlenv("agreement", file, same)
        assert code == 1 and "is compared with itself" in error
    code, shown, _ = rlenv("agreement", file, copy)
    assert code == 0 and "NOT EVIDENCE: all labels of the 4 sessions are the same in both files" in shown
    write_sessions(judged, unlabelled(truth))
    assert rlenv("annotate", judged, judged, "--judge", "detectors")[0] == 0
    write_sessions(again, [s.model_copy(update={"note": 1}) for s in read_sessions(judged, neighbours="keep")])
    for arguments in ([judged, "--judge", "detectors"], [judged, again]):
        assert "NOT EVIDENCE: one judge gave the issues of both sides" in rlenv("agreement", *arguments)[1]
    assert "NOT EVIDENCE" not in rlenv("agreement", file, judged)[1]
    assert "NOT EVIDENCE" not in rlenv("agreement", file, "--judge", "detectors")[1]


def test_agreement_without_common_messages_is_an_error(tmp_path: Path) -> None:
    file, other = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    write_sessions(file, generate_sessions(2, 1, seed=3))
    write_sessions(other, generate_sessions(2, 1, seed=4))
    for arguments in ([file], [file, other, "--judge", "oracle"], [file, "--judge", "endpoint"]):
        assert rlenv("agreement", *arguments)[0] == 1


def test_agreement_asks_for_a_map_where_the_two_share_no_label_name(tmp_path: Path) -> None:
    said = [
        ("user", "Hm."),
        ("assistant", "Why do you feel low?"),
        ("user", "I said."),
        ("assistant", "Why do you feel low?"),
    ]

    def labelled(name: str, *issues: str) -> Path:
        messages = [
            {"role": role, "content": text, **({"issues": [issues[i // 2]]} if role == "assistant" else {})}
            for i, (role, text) in enumerate(said)
        ]
        write_sessions(tmp_path / name, [Session.model_validate({"session_id": "s", "messages": messages})])
        return tmp_path / name

    theirs = labelled("theirs.jsonl", "lack of empathy", "redundant")
    ours = labelled("ours.jsonl", "repetitive_questions", "duplicate_chatbot_messages")
    for second in ([ours], ["--judge", "detectors"]):
        code, _, err = rlenv("agreement", theirs, *second)
        assert code == 1 and "share no name of issues" in err and "--map" in err
    # Other categories of the same taxonomy are no other vocabulary.
    code, shown, err = rlenv("agreement", ours, labelled("others.jsonl", "premature_wrap_up", "premature_wrap_up"))
    assert code == 0 and "--map" not in shown + err
    (tmp_path / "map.yaml").write_text("issues: {redundant: [duplicate_chatbot_messages]}")
    code, shown, _ = rlenv("agreement", theirs, ours, "--map", tmp_path / "map.yaml")
    assert code == 0 and "1.000" in shown
