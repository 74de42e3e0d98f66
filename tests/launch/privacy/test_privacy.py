"""Cards, the audit and forgetting, on a small run written by hand."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from launch.cli.main import app
from launch.privacy.audit import PEOPLE, audit_run, write_unspoiled
from launch.privacy.cards import complete_card, export_adapter
from launch.privacy.forget import forget
from launch.run.directory import RunDirectory
from launch.run.settings import load_config, to_dict
from rlenv.core.adapters import adapter_at, folder_digest
from rlenv.core.errors import ConfigError, DataError
from rlenv.core.files import to_line, write_atomic, write_json
from rlenv.core.types import Message, Session
from rlenv.data.sessions import read_sessions, split_by_user, write_sessions
from rlenv.population.corpus import generate_sessions

SHARES = {"sft": 0.4, "adversarial": 0.4, "evaluation": 0.2}


def simulated(real: Session, part: str, **changes: object) -> Session:
    extra = {"context_id": real.session_id, "part": part, "ended_by": "limit", "session_id": f"{real.session_id}#0"}
    return real.model_copy(update={**extra, **changes})


@pytest.fixture
def run(tmp_path) -> Path:
    """A run of base and it1 over fifteen users, with everything but weights that work."""
    directory = RunDirectory(tmp_path / "run")
    directory.root.mkdir()
    (tmp_path / "source.yaml").write_text("num_iterations: 1\nname: hand\nsimulator: {model: smollm2}\n")
    directory.open(to_dict(load_config(tmp_path / "source.yaml")))
    parts = split_by_user(generate_sessions(15, 2, 0), SHARES, 0)
    for name, sessions in parts.items():
        write_sessions(directory.path(f"data/{name}.jsonl.gz"), sessions)
    users = {f"{name}_users": len({s.user_id for s in found}) for name, found in parts.items()}
    write_json(directory.path("data/counts.json"), {f"{n}_sessions": len(f) for n, f in parts.items()} | users)
    for version in ("base", "it1"):
        made = [simulated(s, part) for part in ("adversarial", "evaluation") for s in parts[part]]
        write_sessions(directory.path(f"{version}/simulated/sessions.jsonl"), made)
        states = ({"context_id": s.model_extra["context_id"], "turns": []} for s in made)
        write_atomic(directory.path(f"{version}/simulated/conversations.jsonl.gz"), map(to_line, states))
        rows = [{"session_id": s.session_id, "context_id": s.session_id, "log_odds": [0.0, 0.1]}
                for s in parts["evaluation"]]  # fmt: skip
        main = directory.path(f"{version}/discriminator/main")
        main.mkdir(parents=True)
        (main / "validation.json").write_text(json.dumps(rows))
        (main / "discriminator.json").write_text("{}")
        adapter = directory.path(f"{version}/adapter")
        adapter.mkdir()
        (adapter / "adapter_config.json").write_text("{}")
        (adapter / "adapter_model.safetensors").write_bytes(version.encode())
    pairs = [{"session_id": f"{s.session_id}#0", "turn": 1, "chosen": "a", "rejected": "b"}
             for s in parts["adversarial"][1:]]  # fmt: skip
    write_atomic(directory.path("base/preferences/pairs.jsonl"), map(to_line, pairs))
    write_json(directory.path("base/preferences/counts.json"), {"kept": len(pairs)})
    rows = [
        {"step": 0, "version": "base", "disc/accuracy_overall": 0.9, "disc/power_accuracy": 0.97},
        {"step": 1, "version": "it1", "disc/accuracy_overall": 0.6, "disc/accuracy_session": 0.7,
         "disc/referee_accuracy": 0.8, "disc/leak_accuracy": 0.5},
    ]  # fmt: skip
    directory.path("metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return directory.root


def part(run: Path, name: str) -> list[Session]:
    return read_sessions(run / f"data/{name}.jsonl.gz", neighbours="keep")


def contents(run: Path) -> dict[str, bytes]:
    return {str(p.relative_to(run)): p.read_bytes() for p in sorted(run.rglob("*")) if p.is_file()}


# ------------------------------------------------------------------------------------------- cards


def test_a_card_tells_training_use_misuse_and_the_verdict_of_the_controls(run):
    name, card = complete_card(run)
    assert name == "it1" and card.startswith("---\nbase_model: smollm2\n")
    for text in (
        "not for use with patients",
        "optimised for engagement over the wellbeing of",
        "| started from | base |",
        f"| preference pairs kept | {len(part(run, 'adversarial')) - 1} |",
        f"| base: real sessions | {len(part(run, 'sft'))} |",
        "power control: 0.97 against shuffled words",
        "NOT EVIDENCE at it1: the word-count referee (0.80) beats the discriminator",
        "| dpo.beta | 1.0 |",
    ):
        assert text in card, text
    assert not [m.content for s in part(run, "sft") for m in s.messages if len(m.content) > 20 and m.content in card]
    assert str(run) not in card


def test_an_exported_adapter_has_its_complete_card_and_the_same_digest(run, tmp_path):
    assert export_adapter(run, tmp_path / "out", "base") == "base"
    assert "Verdict of the controls" in (tmp_path / "out" / "README.md").read_text()
    assert folder_digest(tmp_path / "out") == adapter_at(run / "base" / "adapter", "base").digest


def test_a_version_that_is_not_there_is_told_with_those_that_are(run):
    with pytest.raises(ConfigError, match="no simulator 'it7'; there are base, it1"):
        complete_card(run, "it7")


# ------------------------------------------------------------------------------------------- audit


def test_the_audit_counts_spoiled_sessions_by_version_and_compares_with_people(run):
    sessions = read_sessions(run / "it1/simulated/sessions.jsonl", neighbours="keep")
    gone = sessions[0].model_copy(update={"messages": sessions[0].messages[:1], "ended_by": "user"})
    said = Message(role="user", content="I'm here to listen. How does that make you feel?")
    talks = sessions[1].model_copy(update={"messages": (*sessions[1].messages, said)})
    write_sessions(run / "it1/simulated/sessions.jsonl", [gone, talks, *sessions[2:]])
    base, it1, people = audit_run(run)
    assert (base.faults.spoiled, people.name) == (0, PEOPLE)
    assert it1.faults.kinds["speaks_as_chatbot"] == 1 and it1.faults.spoiled == 2
    assert people.faults.share("left_early") is None  # nobody knows who ended a real session
    written = write_unspoiled(run, ["it1"], run / "clean")
    kept = {s.session_id for s in read_sessions(run / "clean/it1.jsonl", neighbours="keep")}
    assert written == {"it1": len(sessions) - 2} and kept == {s.session_id for s in sessions[2:]}


def test_a_simulator_that_says_a_training_users_own_sentence_is_found(run):
    own = (
        "the green kettle my uncle sent from Porto whistles at four every night and wakes both dogs and the old parrot"
    )
    sft = part(run, "sft")
    first = sft[0].model_copy(update={"messages": (Message(role="user", content=f"Well, {own}."),)})
    write_sessions(run / "data/sft.jsonl.gz", [first, *sft[1:]])
    sessions = read_sessions(run / "it1/simulated/sessions.jsonl", neighbours="keep")
    says = sessions[3].model_copy(update={"messages": (Message(role="user", content=f"Yes. {own.upper()} again"),)})
    write_sessions(run / "it1/simulated/sessions.jsonl", [*sessions[:3], says, *sessions[4:]])
    found = next(one for one in audit_run(run) if one.name == "it1").run
    assert (found.num_words, found.session_id, found.user_id) == (21, says.session_id, first.user_id)
    assert "| this version | 21 words |" in complete_card(run)[1]


def test_the_audit_is_printed_without_a_message(run):
    done = CliRunner().invoke(app, ["audit", str(run)])
    assert done.exit_code == 0 and "it1" in done.output and PEOPLE in done.output
    assert not [
        m.content for s in part(run, "sft") for m in s.messages if len(m.content) > 20 and m.content in done.output
    ]


# ------------------------------------------------------------------------------------------- forget


def test_forgetting_a_user_removes_all_that_came_of_them_and_leaves_the_rest_byte_for_byte(run):
    before, user = contents(run), part(run, "adversarial")[-1].user_id
    ids = {s.session_id for s in part(run, "adversarial") if s.user_id == user}
    found = forget(run, user)
    after = contents(run)
    assert set(found.records) == {
        "data/adversarial.jsonl.gz",
        "base/preferences/pairs.jsonl",
        *(f"{v}/simulated/{n}" for v in ("base", "it1") for n in ("sessions.jsonl", "conversations.jsonl.gz")),
    }
    assert set(found.records.values()) == {len(ids)} == {found.num_sessions}
    assert {name for name in before if before[name] != after[name]} == set(found.records)
    for name in found.records:
        old, new = (
            (gzip.decompress(c) if name.endswith(".gz") else c).splitlines() for c in (before[name], after[name])
        )
        assert new == [line for line in old if not any(f'"{i}'.encode() in line for i in ids)]
        assert not any(i.encode() in b"\n".join(new) for i in (*ids, user))


@pytest.mark.parametrize(("further_sft", "later"), [("first", ["it1/adapter"]), ("row", [])])
def test_weights_that_go_on_from_further_sft_are_listed_and_others_are_not(run, further_sft, later):
    shutil.copytree(run / "base/adapter", run / "further_sft/adapter")
    shutil.rmtree(run / "base/preferences")
    config = run / "config.yaml"
    config.write_text(config.read_text().replace("further_sft: never", f"further_sft: {further_sft}"))
    found = forget(run, part(run, "adversarial")[-1].user_id, dry_run=True)
    assert list(found.adapters) == ["further_sft/adapter", *later]


@pytest.mark.parametrize("where", ["sft", "adversarial", "evaluation"])
def test_the_weights_that_were_trained_on_a_person_are_listed(run, where):
    found = forget(run, part(run, where)[-1].user_id, dry_run=True)
    judges = ["base/discriminator/main", "it1/discriminator/main"]
    adapters = {"sft": ["base/adapter", "it1/adapter"], "adversarial": ["it1/adapter"], "evaluation": []}
    assert found.adapters == adapters[where]
    assert found.discriminators == (judges if where == "adversarial" else [])


def test_validation_rows_of_a_person_go_and_the_others_keep_their_numbers(run):
    user = part(run, "evaluation")[0].user_id
    rows = json.loads((run / "it1/discriminator/main/validation.json").read_text())
    forget(run, user)
    kept = json.loads((run / "it1/discriminator/main/validation.json").read_text())
    assert kept == [row for row in rows if not row["session_id"].startswith(f"{user}-")] and len(kept) < len(rows)


def test_a_dry_run_changes_nothing_and_says_what_would_go(run):
    before, user = contents(run), part(run, "sft")[0].user_id
    (run / "report.html").write_text(f"<p>{part(run, 'sft')[0].session_id}</p>")
    done = CliRunner().invoke(app, ["forget", str(run), "--user", user, "--dry-run"])
    assert done.exit_code == 0 and "would be removed" in done.output and "  report.html" in done.output
    assert {name: content for name, content in contents(run).items() if name in before} == before


def test_forgetting_again_after_an_interruption_ends_it(run, monkeypatch):
    user = part(run, "adversarial")[-1].user_id
    real, calls = write_atomic, []

    def interrupted(path, chunks):
        calls.append(path)
        if len(calls) == 3:
            raise KeyboardInterrupt
        real(path, chunks)

    monkeypatch.setattr("launch.privacy.forget.write_atomic", interrupted)
    with pytest.raises(KeyboardInterrupt):
        forget(run, user)
    monkeypatch.undo()
    forget(run, user)
    with pytest.raises(ConfigError, match="no session of the user"):
        forget(run, user)


def test_a_run_at_work_and_a_damaged_file_are_refused_before_anything_changes(run):
    user = part(run, "adversarial")[-1].user_id
    with RunDirectory(run).locked(), pytest.raises(ConfigError, match="a driver is running"):
        forget(run, user)
    before = contents(run)
    with (run / "base/preferences/pairs.jsonl").open("ab") as file:
        file.write(b'{"session_id": "cut')
    with pytest.raises(DataError, match=r"pairs.jsonl:\d+: expected a file as rlenv wrote it"):
        forget(run, user)
    changed = {name for name, content in contents(run).items() if before.get(name) != content}
    assert changed <= {"base/preferences/pairs.jsonl", ".lock"}
