"""The command ``rlenv evaluate``: what it reads, what it writes, and what it refuses."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
import typer

from launch.reports.evaluate import register
from launch.reports.inputs import read_ab_tests, read_inputs
from rlenv.core.errors import ConfigError, RlenvError
from rlenv.core.files import new_folder
from rlenv.core.types import Session
from rlenv.data.sessions import read_sessions, write_sessions
from tests.local_endpoint import serve


def evaluate(*arguments: object, figure3: bool = False) -> None:
    """Runs the command in this process and lets errors pass; without embeddings, which are slow, unless ``figure3``."""
    app = typer.Typer()
    register(app)
    app([*map(str, arguments), *(() if figure3 else ("--no-embeddings",))], standalone_mode=False)


def table(out: Path, name: str) -> list[dict[str, str]]:
    with open(out / f"tables/{name}.csv") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def out(files, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("out") / "evaluation"
    evaluate(
        files.run, f"salad={files.scrambled}", "--real", files.real, "--aggregate", "both=base,it1",
        "--control", "steady", "--treatment", "brief", "--treatment", "echo", "--out", folder,
    )  # fmt: skip
    return folder


def test_every_version_every_file_and_the_aggregate_has_a_row(out):
    assert [row["simulator"] for row in table(out, "subjects")] == ["real", "base", "it1", "salad", "both"]
    assert [row["simulator"] for row in table(out, "table2_discriminator")] == ["base", "it1"]
    assert {row["test"] for row in table(out, "table5_ab")} == {"brief", "echo"}


def test_sessions_of_a_run_that_were_trained_on_are_left_out(files):
    base = read_inputs([str(files.run)], []).simulators[0]
    assert len(base.sessions) == 24
    assert len(read_inputs([str(files.run)], [], part=None).simulators[0].sessions) == 25


def test_a_single_run_provides_the_real_users_the_cap_and_the_controls(files):
    inputs = read_inputs([str(files.run)], [])
    assert len(inputs.real) == 24 and inputs.max_turns == 12
    assert any("power control: 0.97" in sentence for sentence in inputs.verdicts)
    with pytest.raises(ConfigError, match="--real"):
        read_inputs([str(files.good)], [])


def test_tables_have_intervals_and_missing_values_are_empty(out):
    rows = {row["simulator"]: row for row in table(out, "table1_linguistic")}
    entropy = {name: float(row["entropy"]) for name, row in rows.items()}
    assert float(rows["real"]["entropy_low"]) < entropy["real"] < float(rows["real"]["entropy_high"])
    disc = table(out, "table2_discriminator")
    assert float(disc[0]["overall_accuracy"]) > float(disc[1]["overall_accuracy"]) > 0.5
    assert disc[0]["turn_25_accuracy"] == "" and disc[0]["turn_25_decisions"] == "0"
    validity = {row["simulator"]: row for row in table(out, "table3_validity")}
    assert -1 <= float(validity["it1"]["pearson_r"]) <= 1 and validity["it1"]["chatbots"] == "4"


def test_metrics_are_reproducible_and_contain_no_message_text(files, out, tmp_path):
    evaluate(files.good, "--real", files.real, "--out", tmp_path / "one")
    evaluate(files.good, "--real", files.real, "--out", tmp_path / "two")
    one, two = ((tmp_path / name / "metrics.json").read_bytes() for name in ("one", "two"))
    assert one == two and json.loads(one)["real"]["num_sessions"] == 24
    texts = {text for session in read_sessions(files.good) for text in session.user_messages() if len(text) > 30}
    written = "".join(p.read_text() for p in out.rglob("*") if p.suffix in {".json", ".csv"})
    assert texts and not any(text in written for text in texts)


def test_an_evaluation_is_overwritten_only_on_request_and_kept_on_failure(files, out, tmp_path):
    with pytest.raises(ConfigError, match="--overwrite"):
        evaluate(files.good, "--real", files.real, "--out", out)
    with pytest.raises(ConfigError, match="is not an evaluation"):
        evaluate(files.good, "--real", files.real, "--out", tmp_path, "--overwrite")
    target = tmp_path / "kept"
    with new_folder(target) as folder:
        (folder / "metrics.json").write_text("1")
    with pytest.raises(RuntimeError), new_folder(target, replace=True) as folder:
        (folder / "metrics.json").write_text("2")
        raise RuntimeError
    assert (target / "metrics.json").read_text() == "1" and [p.name for p in tmp_path.iterdir()] == ["kept"]
    with new_folder(target, replace=True) as folder:
        (folder / "metrics.json").write_text("3")
    assert (target / "metrics.json").read_text() == "3" and [p.name for p in tmp_path.iterdir()] == ["kept"]


def test_unreadable_sources_are_reported(files, tmp_path):
    empty = tmp_path / "empty.jsonl"
    write_sessions(empty, [])
    cases = {
        "no such run directory or sessions file": [str(tmp_path / "nowhere")],
        "not a run with simulated sessions": [str(tmp_path)],
        r"empty.jsonl: expected at least one line": [str(empty)],
    }
    for message, sources in cases.items():
        with pytest.raises(RlenvError, match=message):
            read_inputs(sources, [files.real])
    with pytest.raises(RlenvError, match="expected at least one line"):
        read_inputs([str(files.good)], [empty])


def test_sessions_without_messages_are_left_out_of_an_evaluation_and_counted(files, tmp_path, capsys):
    whole = read_sessions(files.good)
    write_sessions(tmp_path / "gaps.jsonl", [*whole, Session(session_id="e1"), Session(session_id="e2")])
    evaluate(tmp_path / "gaps.jsonl", "--real", files.real, "--out", tmp_path / "out")
    note = f"gaps: 2 of {len(whole) + 2} sessions have no messages and are left out"
    assert note in capsys.readouterr().out
    found = json.loads((tmp_path / "out/metrics.json").read_text())
    assert note in found["notes"] and found["simulators"][0]["num_sessions"] == len(whole)


def test_a_file_compared_with_itself_or_a_copy_is_no_evidence(files, tmp_path, capsys):
    renamed = [s.model_copy(update={"session_id": f"other-{s.session_id}"}) for s in read_sessions(files.real)]
    write_sessions(tmp_path / "copy.jsonl", renamed)
    for i, source in enumerate((files.real, tmp_path / "copy.jsonl")):
        evaluate(f"copy={source}", "--real", files.real, "--out", tmp_path / str(i))
        note = "NOT EVIDENCE: 24 of the 24 different sessions of copy are also those of real, word for word"
        assert note in capsys.readouterr().out
        assert note in (tmp_path / str(i) / "report.html").read_text()
    evaluate(files.good, f"twice={files.good}", "--real", files.real, "--out", tmp_path / "two")
    assert "sessions of twice are also those of good" in capsys.readouterr().out
    evaluate(files.good, "--real", files.real, "--out", tmp_path / "sound")
    assert "NOT EVIDENCE" not in capsys.readouterr().out


def test_an_ab_test_of_a_chatbot_with_itself_is_refused_and_with_equal_sessions_is_no_evidence(files, tmp_path, capsys):
    names = ["--control", "steady", "--treatment"]
    with pytest.raises(ConfigError, match="control and treatment are both 'steady'"):
        evaluate(files.good, "--real", files.real, *names, "steady", "--out", tmp_path / "self")
    control = [s for s in read_sessions(files.good) if s.chatbot == "steady"]
    twin = [s.model_copy(update={"session_id": f"t-{s.session_id}", "chatbot": "twin"}) for s in control]
    write_sessions(tmp_path / "twins.jsonl", [*control, *twin])
    evaluate(tmp_path / "twins.jsonl", "--real", files.real, *names, "twin", "--out", tmp_path / "twin")
    assert "NOT EVIDENCE: A/B test twin: with twins," in capsys.readouterr().out


def vectors(body) -> dict:
    """Returns the answer of an embedding endpoint, with vectors made from the letters of each text."""
    found = [[text.count(letter) + 0.5 for letter in "aeiounst"] for text in body["input"]]
    data = [{"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(found)]
    return {
        "object": "list",
        "model": body["model"],
        "data": data[::-1],
        "usage": {"prompt_tokens": 0, "total_tokens": 0},
    }


def test_figure_3_uses_an_endpoint_and_pays_for_each_vector_once(files, tmp_path, monkeypatch):
    monkeypatch.setenv("KEY_OF_THE_TEST", "s3cret")
    with serve(vectors) as endpoint:
        asked = [files.run, "--embed-url", endpoint.base_url, "--embed-model", "large", "--embed-key-env"]
        evaluate(
            *asked, "KEY_OF_THE_TEST", "--embed-cache", tmp_path / "cache", "--out", tmp_path / "one", figure3=True
        )
        num = len(endpoint.requests)
        evaluate(
            *asked, "KEY_OF_THE_TEST", "--embed-cache", tmp_path / "cache", "--out", tmp_path / "two", figure3=True
        )
        assert num == len(endpoint.requests) and set(endpoint.keys) == {"Bearer s3cret"}
    rows = {row["simulator"]: row for row in table(tmp_path / "one", "figure3_embeddings")}
    assert list(rows) == ["base", "it1", "real, one half against the other"]
    assert 0 <= float(rows["it1"]["neighbour_accuracy"]) <= 1 and float(rows["it1"]["chance"]) == 1 / 24
    assert {row["simulator"] for row in table(tmp_path / "one", "figure3_points")} == {"real", "base", "it1"}
    one, two = ((tmp_path / name / "metrics.json").read_bytes() for name in ("one", "two"))
    assert one == two and (tmp_path / "one/figures/figure3_embeddings.png").read_bytes()
    assert "large at http" in (tmp_path / "one/report.html").read_text()


def test_a_second_evaluation_of_the_same_run_embeds_nothing_and_gives_the_same(files, tmp_path, capsys):
    run = shutil.copytree(files.run, tmp_path / "run")
    with serve(vectors) as endpoint:
        asked = [run, "--embed-url", endpoint.base_url, "--embed-model", "m", "--embed-sessions", "20"]
        evaluate(*asked, "--out", tmp_path / "one", figure3=True)
        num = len(endpoint.requests)
        evaluate(*asked, "--out", tmp_path / "two", figure3=True)
    assert num == len(endpoint.requests) > 0 and any((run / "embeddings").rglob("*.npy"))
    assert (tmp_path / "one/metrics.json").read_bytes() == (tmp_path / "two/metrics.json").read_bytes()
    note = "a sample of the sessions, drawn under seed 0: 20 of 24 of real, 20 of 24 of base, 20 of 24 of it1"
    assert note in capsys.readouterr().out and note in (tmp_path / "one/report.html").read_text()


def test_without_a_model_or_with_too_few_sessions_figure_3_is_missing_and_the_note_says_what_to_do(
    files, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("rlenv.evaluation.embeddings.models.PACKAGE", "a_package_that_is_not_there")
    evaluate(files.good, "--real", files.real, "--out", tmp_path / "none", figure3=True)
    said = capsys.readouterr().out
    assert "no Figure 3: all-MiniLM-L6-v2" in said and "pip install" in said and "--embed-url" in said
    assert json.loads((tmp_path / "none/metrics.json").read_text())["embeddings"] is None
    assert not (tmp_path / "none/figures/figure3_embeddings.png").exists()
    with serve(vectors) as endpoint:
        named = [
            "--embed-url",
            endpoint.base_url,
            "--embed-model",
            "m",
            "--embed-sessions",
            "10",
            "--out",
            tmp_path / "few",
        ]
        evaluate(files.good, "--real", files.real, *named, figure3=True)
    assert "there are 20; give more sessions, or a lower --perplexity" in capsys.readouterr().out
    assert table(tmp_path / "few", "figure3_embeddings")[0]["neighbour_accuracy"] != ""
    assert not (tmp_path / "few/figures/figure3_embeddings.png").exists()
    with pytest.raises(ConfigError, match="go together"):
        evaluate(files.good, "--real", files.real, "--embed-model", "m", "--out", tmp_path / "x", figure3=True)


def test_ab_tests_come_from_a_file_and_from_options(tmp_path):
    file = tmp_path / "ab.yaml"
    file.write_text("- {name: colder, control: steady, treatment: brief}\n")
    assert [t.name for t in read_ab_tests(file, "steady", ["echo"])] == ["colder", "echo"]
    file.write_text("- {name: colder, contrl: steady}\n")
    with pytest.raises(ConfigError, match="expected a YAML list"):
        read_ab_tests(file, None, [])
    with pytest.raises(ConfigError, match="go together"):
        read_ab_tests(None, "steady", [])
