"""``rlenv verify``: every kind of damage to the files of finished phases is named, with the phase to make again."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

import launch.run.manifest
from launch.cli.main import app
from launch.privacy.forget import forget
from launch.reports.verify import made_from, verify
from launch.run.directory import RunDirectory
from launch.run.manifest import MANIFEST
from launch.run.settings import load_config, to_dict
from rlenv.core.adapters import folder_digest
from rlenv.core.errors import ConfigError, PhaseError
from rlenv.data.sessions import write_sessions
from rlenv.population.corpus import generate_sessions

SETTINGS = to_dict(load_config(None, ["num_iterations=1"]))
PHASES = [
    "data", "base/adapter", "base/simulated", "base/discriminator", "base/preferences", "base/measures", "it1/adapter",
    "it1/simulated",
]  # fmt: skip


def write(folder: Path) -> None:
    (folder / "main").mkdir(parents=True)
    (folder / "weights").write_bytes(folder.parent.name.encode() * 100)
    (folder / "main" / "counts.json").write_text('{"sessions": 3}')


@pytest.fixture
def run(tmp_path):
    directory = RunDirectory(tmp_path / "run")
    with directory.locked():
        directory.open(SETTINGS)
        for phase in PHASES:
            directory.once(phase, write)
    return directory


def kinds(run: RunDirectory) -> dict[str, str]:
    found = verify(run.root)
    return {f"{damaged.phase}/{fault.file}": fault.kind for damaged in found.damaged for fault in damaged.faults}


def test_a_finished_phase_lists_the_size_and_digest_of_each_of_its_files(run):
    files = json.loads((run.path("base/adapter") / MANIFEST).read_text())["files"]
    content = run.path("base/adapter/weights").read_bytes()
    assert files["weights"] == {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert sorted(files) == ["main/counts.json", "weights"]


def test_a_sound_run_is_told_to_be_sound(run):
    result = CliRunner().invoke(app, ["verify", str(run.root)])
    assert result.exit_code == 0 and "8 phases checked; every file is as it was written" in result.output


def test_each_missing_truncated_changed_and_unknown_file_is_named(run):
    run.path("base/adapter/weights").unlink()
    with open(run.path("base/simulated/weights"), "r+b") as file:
        file.truncate(10)
    damaged = bytearray(run.path("it1/adapter/weights").read_bytes())
    damaged[7] ^= 1
    run.path("it1/adapter/weights").write_bytes(damaged)
    run.path("data/notes.txt").write_text("mine")
    assert kinds(run) == {
        "data/notes.txt": "unknown",
        "base/adapter/weights": "missing",
        "base/simulated/weights": "truncated",
        "it1/adapter/weights": "changed",
    }
    result = CliRunner().invoke(app, ["verify", str(run.root)])
    assert result.exit_code == 1
    assert "base/simulated/weights: truncated; expected 400 bytes, got 10 bytes" in result.output
    assert "remove the folder base/simulated and run the same command again" in result.output
    assert "made from it: base/discriminator, base/preferences, base/measures, it1/adapter, it1/sim" in result.output


def test_json_has_the_same(run):
    run.path("base/adapter/weights").write_bytes(b"")
    result = CliRunner().invoke(app, ["verify", str(run.root), "--json"])
    told = json.loads(result.stdout)
    assert result.exit_code == 1 and not told["sound"] and told["checked"] == sorted(PHASES)
    (damaged,) = told["damaged"]
    assert damaged["phase"] == "base/adapter" and damaged["faults"][0]["kind"] == "truncated"


def test_a_damaged_manifest_a_damaged_table_and_a_folder_that_is_gone_are_named(run):
    run.path(
        "base/adapter",
    ).joinpath(MANIFEST).write_text('{"files": {"weights": 3}}')
    run.path("base/simulated").joinpath(MANIFEST).write_text('{"fil')
    run.path("metrics.jsonl").write_text('{"step": 0}\n{"st')
    shutil.rmtree(run.path("base/preferences"))
    found = verify(run.root)
    assert kinds(run) == dict.fromkeys((f"base/adapter/{MANIFEST}", f"base/simulated/{MANIFEST}"), "unreadable")
    (message,) = found.unreadable
    assert "metrics.jsonl:2" in message
    (gone,) = [damaged for damaged in found.damaged if not damaged.faults]
    assert (gone.phase, gone.made_from_it) == ("base/preferences", ("it1/adapter", "it1/simulated"))
    result = CliRunner().invoke(app, ["verify", str(run.root)])
    assert result.exit_code == 1 and "base/preferences: the whole folder is missing" in result.output


def test_phases_of_older_runs_are_told_and_not_refused(run):
    for phase in PHASES[:3]:
        run.path(phase).joinpath(MANIFEST).unlink()
    result = CliRunner().invoke(app, ["verify", str(run.root)])
    assert result.exit_code == 0
    assert "not checked: 3 phases without a manifest, made by an older version (data, base/adapter" in result.output


def test_a_driver_killed_between_the_note_of_a_time_and_the_rename_leaves_a_sound_run(run):
    with open(run.path("timings.jsonl"), "a") as file:
        file.write(json.dumps({"phase": "it1/measures", "seconds": 1, "ended": 9e9}) + "\n")
    assert verify(run.root).sound


def test_runs_inside_a_run_are_checked_and_what_ended_later_counts_as_made_from_them(run):
    inner = RunDirectory(run.path("adversarial"))
    inner.open(SETTINGS)
    inner.once("data", write)
    run.once("labelled", write)
    inner.path("data/weights").write_bytes(b"")
    (damaged,) = verify(run.root).damaged
    assert (damaged.phase, damaged.made_from_it) == ("adversarial/data", ("labelled",))


def test_a_run_that_resumes_hashes_nothing(run, monkeypatch):
    def refuse(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(launch.run.manifest, "_sha256", refuse)
    with run.locked():
        run.open(SETTINGS)
        for phase in PHASES:
            run.once(phase, write)


def test_a_phase_that_fails_to_write_its_manifest_is_not_finished(run, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(launch.run.manifest, "_sha256", full)
    with pytest.raises(PhaseError, match="no space left on device"):
        run.once("it1/measures", write)
    assert not run.has("it1/measures") and not list(run.root.rglob("*.partial"))


def test_an_adapter_has_the_same_digest_with_and_without_a_manifest(run):
    before = folder_digest(run.path("base/adapter"))
    run.path("base/adapter").joinpath(MANIFEST).unlink()
    assert folder_digest(run.path("base/adapter")) == before


def test_what_was_made_from_a_phase_follows_the_algorithm():
    later = ["it1/discriminator", "it1/preferences", "it1/measures", "it2/adapter", "it2_of_4/simulated"]
    phases = [*PHASES, *later, "chatbots/helper"]

    def of(phase: str) -> set[str]:
        return set(made_from(phase, phases, {}))

    assert of("data") == {*phases} - {"data"}
    assert of("base/measures") == set()
    assert of("base/preferences") == {"it1/adapter", "it1/simulated", *later}
    assert of("it1/simulated") == {"it1/discriminator", "it1/preferences", "it1/measures", "it2/adapter", later[-1]}
    assert "base/adapter" not in of("chatbots/helper") and {"base/simulated", "it1/simulated"} <= of("chatbots/helper")
    further = [f"further_sft/{kind}" for kind in ("adapter", "simulated", "preferences")]
    phases += further
    assert of("base/adapter") >= {*further, "it1/adapter"} and "it1/adapter" in of("further_sft/preferences")
    rounds = ["start/measured", "rounds/00000-ab", "rl1/adapter", "rl1/measured", "rl1/judged", "rl2/adapter"]
    assert set(made_from("rounds/00000-ab", rounds, {})) == {"rl1/adapter", "rl1/measured", "rl1/judged", "rl2/adapter"}


def test_a_run_that_forgot_a_person_is_sound(tmp_path):
    run = RunDirectory(tmp_path / "run")
    sessions = generate_sessions(3, 1, 0)

    def make(folder: Path) -> None:
        folder.mkdir()
        write_sessions(folder / "sft.jsonl.gz", sessions)

    with run.locked():
        run.open(SETTINGS)
        run.once("data", make)
    assert forget(run.root, sessions[1].user_id).records == {"data/sft.jsonl.gz": 1}
    assert verify(run.root).sound
    run.path("data/sft.jsonl.gz").write_bytes(b"")
    assert not verify(run.root).sound


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="not a run directory"):
        verify(tmp_path)
