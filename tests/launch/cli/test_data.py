"""The commands ``rlenv import``, ``validate`` and ``summarize``: counts, exit codes, and no half-written files."""

import json
import os

import pytest
import typer
from typer.testing import CliRunner

from launch.cli import data as data_commands
from rlenv.data.sessions import read_sessions
from tests.local_endpoint import serve

SECRET = "word-from-a-message"


def rlenv(*args):
    app = typer.Typer(pretty_exceptions_enable=False)
    data_commands.register(app)
    result = CliRunner(env={"COLUMNS": "300"}).invoke(app, [str(arg) for arg in args])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert SECRET not in result.output
    assert "Traceback" not in result.output
    return result.exit_code, result.stdout, result.stderr


def counts(stdout):
    """Returns the rows of the printed table: name to number."""
    rows = (line.strip().rpartition(" ") for line in stdout.splitlines())
    return {name.strip(): int(value.replace(",", "")) for name, _, value in rows if value.replace(",", "").isdigit()}


def sessions_file(path, *roles, **more):
    with open(path, "w", encoding="utf-8") as file:
        for i, who in enumerate(roles):
            names = {"u": "user", "a": "assistant", "x": "system", "y": "narrator"}
            messages = [{"role": names[r], "content": SECRET} for r in who]
            file.write(json.dumps({"session_id": f"s{i}", "messages": messages} | more) + "\n")
    return path


def esconv_file(path):
    dialog = [{"speaker": s, "annotation": {}, "content": SECRET} for s in ("seeker", "seeker", "supporter")]
    path.write_text(json.dumps([{"situation": SECRET, "experience_type": "Past", "dialog": dialog}] * 2))
    return path


def test_import_writes_sessions_and_prints_counts(tmp_path):
    code, out, _ = rlenv("import", "esconv", esconv_file(tmp_path / "ESConv.json"), tmp_path / "out.jsonl.gz")
    assert code == 0
    assert counts(out) == {
        "sessions": 2,
        "users": 2,
        "messages": 6,
        "messages after the same speaker": 2,
        "of them joined": 0,
        "kept, unknown to rlenv: context.experience_type": 2,
    }
    assert len(read_sessions(tmp_path / "out.jsonl.gz", neighbours="keep")[0].messages) == 3


def test_import_joins_messages_and_drops_fields_on_request(tmp_path):
    source = esconv_file(tmp_path / "ESConv.json")
    code, out, _ = rlenv("import", "esconv", source, tmp_path / "o.jsonl", "--merge-neighbours", "--drop-unknown")
    assert (code, counts(out)["of them joined"], counts(out)["dropped: context.experience_type"]) == (0, 2, 2)
    assert len(read_sessions(tmp_path / "o.jsonl", neighbours="keep")[0].messages) == 2


def test_import_of_jsonl_maps_the_given_roles(tmp_path):
    source = sessions_file(tmp_path / "in.jsonl", "ux")
    assert rlenv("import", "jsonl", source, tmp_path / "o.jsonl", "--role", "system=assistant")[0] == 0
    assert [m.role for m in read_sessions(tmp_path / "o.jsonl")[0].messages] == ["user", "assistant"]
    code, _, err = rlenv("import", "jsonl", source, tmp_path / "p.jsonl", "--role", "system=bot")
    assert (code, "expected NAME=user or NAME=assistant" in err) == (1, True)
    assert rlenv("import", "annomi", source, tmp_path / "p.jsonl", "--role", "a=user")[0] == 1


def test_import_of_chats_leaves_out_roles_maps_names_and_translates_labels(tmp_path):
    source, out = tmp_path / "in.json", tmp_path / "o.jsonl"
    talk = [{"who": w, "text": SECRET} for w in ("client", "narrator", "helper")]
    talk[0]["actions"] = ["C"]
    source.write_text(json.dumps([{"topic": "x", "talk": talk}], indent=1))
    (tmp_path / "map.yaml").write_text("actions: {C: [change_talk]}")
    names = [word for pair in ("talk=messages", "who=role", "topic=context.situation") for word in ("--map", pair)]
    roles = ["--role", "client=user", "--role", "helper=assistant", "--drop-role", "narrator"]
    code, shown, err = rlenv("import", "chat", source, out, *names, *roles, "--map", tmp_path / "map.yaml")
    assert code == 0, err
    (session,) = read_sessions(out)
    assert [(m.role, m.actions) for m in session.messages] == [("user", ("change_talk",)), ("assistant", None)]
    assert session.context.situation == "x"
    assert counts(shown)["dropped: messages of role 'narrator'"] == 1
    code, _, err = rlenv("import", "chat", source, out, "--map", "talk=mesages")
    assert code == 1 and "did you mean 'messages'?" in err
    assert rlenv("import", "esconv", source, out, "--drop-role", "x")[0] == 1


@pytest.mark.parametrize("option", ["--map=talk=", "--map==messages", "--map="])
def test_a_map_without_a_name_is_refused(tmp_path, option):
    code, _, err = rlenv("import", "chat", sessions_file(tmp_path / "in.jsonl", "ua"), tmp_path / "o.jsonl", option)
    assert code == 1 and "--map" in err


def test_a_failed_import_lists_every_problem_and_keeps_the_old_file(tmp_path):
    source = sessions_file(tmp_path / "in.jsonl", "ua", "y", "yu")
    old = sessions_file(tmp_path / "out.jsonl", "ua")
    before = old.read_bytes()
    code, out, err = rlenv("import", "jsonl", source, old)
    assert (code, out) == (1, "")
    assert "2 problems in 2 places (nothing was written)" in err
    assert f"{source}:2 (session s1): messages[0].role: expected 'user' or 'assistant', got 'narrator'" in err
    assert f"{source}:3" in err
    assert old.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["in.jsonl", "out.jsonl"]


def test_an_import_can_leave_out_sessions_with_problems(tmp_path):
    source = sessions_file(tmp_path / "in.jsonl", "ua", "y")
    code, out, err = rlenv("import", "jsonl", source, tmp_path / "o.jsonl", "--skip-bad")
    assert (code, counts(out)["sessions"]) == (0, 1)
    assert "1 problem in 1 place (left out of" in err


def test_validate_prints_a_summary_of_each_file_and_ok(tmp_path):
    one = sessions_file(tmp_path / "one.jsonl", "ua", "aau", "", context={"profile": "p", "situaton": 1}, split="x")
    two = tmp_path / "two[red].jsonl"
    two.write_text('{"session_id": "t", "messages": [{"role": "user", "content": "", "mood": 1}]}\n')
    code, out, _ = rlenv("validate", one, two)
    assert code == 0
    first, second = out.split(str(two))
    assert out.rstrip().endswith("OK")
    shown = counts(first)
    assert (shown["sessions"], shown["users"], shown["messages"], shown["of users"]) == (3, 3, 5, 2)
    assert (shown["opened by user"], shown["opened by assistant"], shown["opened by nobody"]) == (1, 1, 1)
    assert (shown["messages after the same speaker"], shown["unknown field split"]) == (1, 3)
    assert shown["unknown field context.situaton (did you mean context.situation?)"] == 3
    assert (shown["without situation"], "without profile" in shown) == (3, False)
    assert counts(second)["unknown field messages[].mood"] == 1
    assert counts(second)["without any context"] == 1
    assert counts(second)["without text"] == 1


def test_validate_counts_sessions_without_messages_and_warns(tmp_path):
    one, two = sessions_file(tmp_path / "one.jsonl", "ua", "", ""), tmp_path / "two.jsonl"
    two.write_text('{"session_id": "t", "messages": [{"role": "user", "content": "hello"}]}\n')
    code, out, _ = rlenv("validate", one, two)
    first, second = out.split(str(two))
    assert (code, counts(first)["without messages"], counts(second)["without messages"]) == (0, 2, 0)
    assert "warning: 2 sessions have no messages; other commands leave them out" in out
    assert "warning" not in rlenv("validate", two)[1]


def test_validate_lists_the_problems_of_all_files_together(tmp_path):
    one, two = sessions_file(tmp_path / "one.jsonl", "ua"), sessions_file(tmp_path / "two.jsonl", "uu", "x")
    code, out, err = rlenv("validate", one, two, tmp_path / "[bold]none.jsonl", "--neighbours", "reject")
    assert (code, out) == (1, "")
    assert "4 problems" in err
    assert "user and assistant must alternate" in err
    assert f"the same id is at {one}:1" in err
    assert "[bold]none.jsonl: expected a file" in err
    assert rlenv("validate", one, "--neighbours", "maybe")[0] == 1


def test_summarize_fills_in_what_is_missing_and_requests_no_answer_twice(tmp_path):
    source = sessions_file(tmp_path / "in.jsonl", "ua", "uau", "u", user_id="ann")
    args = ("summarize", source, tmp_path / "out.jsonl", "--model", "m")
    with serve(lambda body: f"Summary {len(body['messages'][1]['content'])}.") as endpoint:
        code, out, _ = rlenv(*args, "--base-url", endpoint.base_url)
        assert code == 0
        assert counts(out)["answers requested"] == len(endpoint.requests) == 4
        again = rlenv(*args, "--base-url", endpoint.base_url)
        assert counts(again[1])["answers from the cache"] == 4
        assert len(endpoint.requests) == 4
    contexts = [s.context for s in read_sessions(tmp_path / "out.jsonl")]
    assert [len(c.previous_summaries) for c in contexts] == [0, 1, 2]
    assert all(c.current_summary and "current_summary" in c.generated for c in contexts)
    assert rlenv("validate", tmp_path / "out.jsonl")[0] == 0


def test_a_failed_summarize_writes_nothing_and_can_be_resumed(tmp_path):
    source, target = sessions_file(tmp_path / "in.jsonl", "ua", "uau"), tmp_path / "out.jsonl"
    refuse = (400, {"message": SECRET})
    with serve(lambda body: refuse if body["messages"][1]["content"].count("User") > 1 else "Said.") as endpoint:
        code, out, err = rlenv("summarize", source, target, "--base-url", endpoint.base_url, "--model", "m")
        assert (code, counts(out)) == (1, {})
        assert "1 summaries failed of 2 sessions" in err
        assert "run the same command again" in err
        assert not target.exists()
        endpoint.answer = lambda body: "Said."
        code, out, _ = rlenv("summarize", source, target, "--base-url", endpoint.base_url, "--model", "m")
        assert (code, counts(out)["answers requested"], counts(out)["answers from the cache"]) == (0, 1, 1)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ((), "give one model"),
        (("--base-url", "http://127.0.0.1:9/v1", "--engine-model", "x"), "give one model"),
        (("--base-url", "http://127.0.0.1:9/v1"), "needs --model"),
        (("--base-url", "http://127.0.0.1:9/v1", "--model", "m", "--key-env", "NO_SUCH_KEY"), "NO_SUCH_KEY is not set"),
        (("--engine-model", "no/such"), "this is not a checkpoint"),
        (
            ("--base-url", "http://127.0.0.1:9/v1", "--model", "m", "--previous", "0"),
            "SummaryConfig.num_previous: expected 1 or more, got 0",
        ),
    ],
)
def test_summarize_names_the_wrong_setting(tmp_path, args, said):
    code, out, err = rlenv("summarize", sessions_file(tmp_path / "in.jsonl", "ua"), tmp_path / "out.jsonl", *args)
    assert (code, counts(out)) == (1, {})
    assert said in err
    assert not (tmp_path / "out.jsonl").exists()
