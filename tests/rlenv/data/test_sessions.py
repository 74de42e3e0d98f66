"""Sessions files: every problem told at once and without text, exact round trips, merging, and the split by user."""

import bz2
import gzip
import json
import lzma
import os
import random

import pytest

from rlenv.core.errors import ConfigError, DataError, RlenvError
from rlenv.core.types import Message, Session, SessionContext
from rlenv.data.sessions import (
    ReadReport,
    merge_neighbours,
    read_sessions,
    read_with_report,
    split_by_user,
    stream_sessions,
    write_sessions,
)

SECRET = "I have not slept for weeks"


def line(session_id="s1", roles="ua", **more):
    role = {"u": "user", "a": "assistant"}
    messages = [{"role": role.get(r, r), "content": f"{SECRET} {i}"} for i, r in enumerate(roles)]
    return json.dumps({"session_id": session_id, "messages": messages, **more})


def write(path, *lines):
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def problems_of(*paths, **options):
    with pytest.raises(DataError) as caught:
        read_sessions(paths, **options)
    assert SECRET not in str(caught.value)
    return caught.value.problems


def nasty_sessions():
    return [
        Session(session_id="a", messages=(Message(role="user", content="😀 שלום\u2028 one\u0085line"),)),
        Session(session_id="b", messages=(Message(role="user", content="cut \ud83d here", mood="\udc00"),)),
        Session(
            session_id="c",
            user_id="u",
            context=SessionContext(situation=None, profile="p", emotion_type="fear"),
            messages=(
                Message(role="user", content="x" * 300_000, actions=()),
                Message(role="assistant", content="", issues=("silence",), votes={"O": 1, "X": 2.5}),
            ),
            survey={"deep": [1, [None, True, "\r\n\t\0"]]},
        ),
        Session(session_id="empty"),
    ]


# ------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize("name", ["s.jsonl", "s.jsonl.gz"])
def test_what_is_written_is_read_back_exactly(tmp_path, name):
    write_sessions(tmp_path / name, nasty_sessions())
    again = read_sessions(tmp_path / name)
    assert again == nasty_sessions()
    assert again[2].model_extra == nasty_sessions()[2].model_extra


def test_a_file_read_and_written_keeps_its_bytes(tmp_path):
    write_sessions(tmp_path / "a.jsonl", nasty_sessions())
    write_sessions(tmp_path / "b.jsonl", read_sessions(tmp_path / "a.jsonl", neighbours="keep"))
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


def test_random_sessions_survive_the_round_trip(tmp_path):
    rng = random.Random(7)
    letters = [chr(c) for c in (*range(0x20), 0x22, 0x5C, 0x61, 0x85, 0x2028, 0x5D0, 0xFEFF, 0x1F600, 0xD83D, 0xFFFF)]
    texts = ["".join(rng.choices(letters, k=rng.randrange(12))) for _ in range(300)]
    sessions = [
        Session(session_id=f"s{i}", messages=(Message(role="user", content=t, note=[t]),)) for i, t in enumerate(texts)
    ]
    write_sessions(tmp_path / "s.jsonl", sessions)
    assert read_sessions(tmp_path / "s.jsonl") == sessions


def test_byte_order_mark_crlf_and_blank_lines_are_tolerated(tmp_path):
    path = tmp_path / "s.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + line("a").encode() + b"\r\n\r\n" + line("b").encode())
    assert [s.session_id for s in read_sessions([path])] == ["a", "b"]


def test_gzip_is_recognised_by_its_bytes_not_its_name(tmp_path):
    path = tmp_path / "s.jsonl"
    path.write_bytes(gzip.compress(line().encode()))
    assert len(read_sessions(path)) == 1


def test_one_report_has_every_problem_of_every_file(tmp_path):
    bad_role = line("r", roles=["system"])
    one = write(tmp_path / "one.jsonl", line("a"), "{broken", bad_role, line("a"))
    two = write(tmp_path / "two.jsonl", '{"session_id": 7, "messages": {}}', line("b", roles="u"))
    missing = tmp_path / "none.jsonl"
    found = [(p.where.rsplit("/", 1)[1], p.session_id, p.field) for p in problems_of(one, two, missing)]
    assert found == [
        ("one.jsonl:2", None, ""),
        ("one.jsonl:3", "r", "messages[0].role"),
        ("one.jsonl:4", "a", "session_id"),
        ("two.jsonl:1", None, "session_id"),
        ("two.jsonl:1", None, "messages"),
        ("none.jsonl", None, ""),
    ]


@pytest.mark.parametrize(("role", "guess"), [("USER", "user"), ("seeker", "user"), ("asistant", "assistant")])
def test_an_unknown_role_gets_a_suggestion(tmp_path, role, guess):
    (problem,) = problems_of(write(tmp_path / "s.jsonl", line(roles=["user", role])))
    assert problem.field == "messages[1].role"
    assert problem.came == repr(role)
    assert f"did you mean '{guess}'?" in problem.hint


def test_text_in_the_place_of_a_role_is_not_shown(tmp_path):
    (problem,) = problems_of(write(tmp_path / "s.jsonl", line(roles=[SECRET])))
    assert problem.came == f"text of {len(SECRET)} characters"


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b'{"session_id": "a", "messages": [], "x": NaN}', "NaN"),
        (b'{"session_id": "a", "messages": [], "x": 1e999}', "double"),
        (b'{"session_id": "a", "session_id": "b", "messages": []}', "'session_id' twice"),
        (b'{"session_id": "a", "messages": [], "x": "\xff"}', "UTF-8"),
        (b'[{"session_id": "a"}]', "rlenv import"),
        (b"null", "null"),
        (b'"' + SECRET.encode() + b'"', "text of 26"),
        (b"[" * 100_000, "too large"),
        (b'{"session_id": "a", "message": []}', "is 'message' this list"),
        (b'{"session_id": "", "messages": []}', "not empty"),
        (b'{"session_id": "a", "messages": [], "user_id": null}', "leave the field out"),
        (b'{"session_id": "a", "messages": [{"role": "user", "content": 5}]}', "in quotes"),
        (b'{"session_id": "a", "messages": [{"role": "user", "content": "", "actions": "sad"}]}', "put it in [ ]"),
    ],
)
def test_a_value_that_is_not_a_session_is_reported_with_what_to_do(tmp_path, raw, said):
    (tmp_path / "s.jsonl").write_bytes(raw + b"\n")
    (problem,) = problems_of(tmp_path / "s.jsonl")
    assert problem.where.endswith("s.jsonl:1")
    assert said in str(problem)


def test_a_list_over_many_lines_is_one_problem_not_one_per_line(tmp_path):
    path = tmp_path / "s.json"
    path.write_text(json.dumps([json.loads(line()) for _ in range(30)], indent=1))
    assert len(problems_of(path)) == 1


def test_empty_and_cut_files_are_problems(tmp_path):
    (tmp_path / "empty.jsonl").write_bytes(b"\xef\xbb\xbf\n\n")
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(line().encode() * 50)[:-20])
    assert [p.came for p in problems_of(tmp_path / "empty.jsonl")] == ["an empty file"]
    assert "a complete gzip file" in str(problems_of(tmp_path / "cut.jsonl.gz")[-1])
    assert "directory" in str(problems_of(tmp_path)[0])


def test_a_long_report_is_cut_but_keeps_every_problem(tmp_path):
    with pytest.raises(DataError) as caught:
        read_sessions(write(tmp_path / "s.jsonl", *["{"], *["{,"] * 70))
    assert len(caught.value.problems) == 1  # a lone brace opens a document over many lines
    with pytest.raises(DataError) as caught:
        read_sessions(write(tmp_path / "s.jsonl", *["{,"] * 70))
    assert len(caught.value.problems) == 70
    assert str(caught.value).endswith("and 20 more")


# --------------------------------------------------------------------------------------- neighbours


def test_a_stream_gives_each_session_when_it_is_read_and_all_problems_at_the_end(tmp_path):
    path = tmp_path / "s.jsonl"
    path.write_text(
        '{"session_id": "a", "messages": []}\n{"session_id": "b"}\n{"session_id": "c", "messages": []}\nx\n'
    )
    stream = stream_sessions(path)
    assert (next(stream).session_id, next(stream).session_id) == ("a", "c")
    with pytest.raises(DataError) as caught:
        next(stream)
    assert len(caught.value.problems) == 2


def test_rejected_neighbours_are_reported_in_one_sentence(tmp_path):
    path = write(tmp_path / "sessions.jsonl", line("x"), line("7f3a", roles="uauaa"))
    (problem,) = problems_of(path, neighbours="reject")
    assert str(problem).removeprefix(f"{tmp_path}/") == (
        "sessions.jsonl:2 (session 7f3a): messages[4].role is 'assistant' after 'assistant'; "
        "user and assistant must alternate."
    )


def test_neighbours_are_joined_by_line_breaks_and_counted(tmp_path):
    path = write(tmp_path / "s.jsonl", line(roles="uuauaa"))
    (session,), report = read_with_report(path)
    assert [m.role for m in session.messages] == ["user", "assistant", "user", "assistant"]
    assert session.messages[0].content == f"{SECRET} 0\n{SECRET} 1"
    assert (report.num_merged, report.num_messages) == (2, 4)
    assert len(read_sessions(path, neighbours="keep")[0].messages) == 6


def test_joined_messages_unite_labels_and_count_what_differs():
    one = Message(role="user", content="", actions=("sad",), votes=[1], feedback=3)
    two = Message(role="user", content="b", actions=("sad", "angry"), issues=("x",), votes=[2], feedback=4, extra=1)
    report = ReadReport()
    (merged,) = merge_neighbours(Session(session_id="s", messages=(one, two)), report).messages
    assert merged == Message(
        role="user", content="b", actions=("sad", "angry"), issues=("x",), votes=[1, 2], feedback=3, extra=1
    )
    assert report.merge_conflicts == {"feedback": 1}


# ------------------------------------------------------------------------------------------ writing


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "s.jsonl"
    write_sessions(path, nasty_sessions())
    before = path.read_bytes()

    def broken():
        yield from nasty_sessions()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_sessions(path, broken())
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["s.jsonl"]


def test_equal_sessions_give_equal_gzip_bytes(tmp_path):
    write_sessions(tmp_path / "a.jsonl.gz", nasty_sessions())
    write_sessions(tmp_path / "b.jsonl.gz", nasty_sessions())
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()


def test_a_path_that_cannot_be_written_is_a_readable_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RlenvError, match="cannot be written"):
        write_sessions(tmp_path / "file" / "s.jsonl", nasty_sessions())


# ------------------------------------------------------------------------------------------ splitting


def people(num_users, per_user=3):
    return [Session(session_id=f"u{u}-{s}", user_id=f"u{u}") for u in range(num_users) for s in range(per_user)]


def test_parts_share_no_user_and_have_about_their_shares():
    parts = split_by_user(people(2000), {"train": 0.8, "validation": 0.1, "test": 0.1}, seed=3)
    users = {name: {s.user_id for s in part} for name, part in parts.items()}
    assert list(parts) == ["train", "validation", "test"]
    assert sum(len(u) for u in users.values()) == len(set.union(*users.values())) == 2000
    assert len(parts["train"]) / 6000 == pytest.approx(0.8, abs=0.03)
    assert len(parts["test"]) / 6000 == pytest.approx(0.1, abs=0.03)


def test_adding_users_or_reordering_moves_nobody():
    shares = {"train": 0.7, "test": 0.3}
    few = split_by_user(people(100), shares, seed=1)
    many = split_by_user(people(300)[::-1], dict(reversed(shares.items())), seed=1)
    for name in shares:
        assert {s.user_id for s in few[name]} <= {s.user_id for s in many[name]}
    assert few != split_by_user(people(100), shares, seed=2)


def test_an_empty_part_and_wrong_shares_are_errors():
    with pytest.raises(ConfigError, match="would be empty: 3 sessions of 1 users"):
        split_by_user(people(1), {"train": 0.5, "test": 0.5}, seed=0)
    for shares in ({}, {"a": 0.5}, {"a": 1.5, "b": -0.5}, {"a": float("nan"), "b": 0.5}):
        with pytest.raises(ConfigError, match="sum to 1"):
            split_by_user(people(5), shares, seed=0)


@pytest.mark.parametrize(
    ("written", "kind"),
    [
        (lambda text: bz2.compress(text.encode()), "bzip2; unpack it"),
        (lambda text: lzma.compress(text.encode()), "xz; unpack it"),
        (
            lambda text: b"PK\x03\x04" + text.encode(),
            "a zip archive or an Excel workbook; unpack it, or save it as CSV",
        ),
        (lambda text: text.encode("utf-16"), "text in UTF-16; save it as UTF-8"),
    ],
)
def test_a_file_of_a_kind_that_is_not_read_is_told_once_with_the_way_out(tmp_path, written, kind):
    (tmp_path / "s.jsonl").write_bytes(written('{"session_id": "a", "messages": []}\n' * 9))
    with pytest.raises(DataError) as refused:
        read_sessions(tmp_path / "s.jsonl")
    assert len(refused.value.problems) == 1 and kind in str(refused.value)
