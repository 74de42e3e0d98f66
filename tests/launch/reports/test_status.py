"""Where a run stands, from its directory: while its driver lives, after it failed, was killed or finished."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from launch.cli.main import app
from launch.cli.status import expected_phases, sentences, status_of
from launch.run.directory import RunDirectory
from launch.run.progress import counting
from launch.run.settings import load_config, to_dict
from launch.study.config import StudyConfig
from rlenv.core.errors import ConfigError, PhaseError
from rlenv.core.progress import Progress

ROOT = Path(__file__).parents[3]
SETTINGS = to_dict(load_config(None, ["num_iterations=1"]))


def folder(path: Path) -> None:
    path.mkdir(parents=True)


@pytest.fixture
def run(tmp_path):
    directory = RunDirectory(tmp_path / "run")
    directory.open(SETTINGS)
    return directory


def test_while_a_phase_runs_its_progress_rate_and_time_left_are_told(run):
    with run.locked():
        run.once("data", folder)

        def make(path: Path) -> None:
            lines = Progress(str(run.path("logs/sft-base.jsonl")), "sft")
            for step in (1, 2, 3):
                lines.write(step, 10)
            found = status_of(run.root)
            assert (found.driver.state, found.driver.phase) == ("running", "base/adapter")
            assert (found.progress.done, found.progress.total) == (3, 10)
            assert found.remaining[:2] == ("base/simulated", "base/discriminator") and list(found.finished) == ["data"]
            assert any("sft: 3 of 10" in line for line in sentences(found))
            path.mkdir()

        run.once("base/adapter", make)


def test_a_failed_run_tells_the_phase_and_our_own_error_and_never_the_text_of_another(run):
    def fails(error: Exception) -> None:
        def make(path: Path) -> None:
            raise error

        with pytest.raises(type(error)), run.locked():
            run.once("base/simulated", make)

    fails(PhaseError("too many conversations failed"))
    found = status_of(run.root)
    assert (found.driver.state, found.driver.phase) == ("failed", "base/simulated")
    assert found.driver.error == "too many conversations failed"
    fails(ValueError("i feel low today"))
    assert status_of(run.root).driver.error == "ValueError"
    result = CliRunner().invoke(app, ["status", str(run.root)])
    assert result.exit_code == 1 and "failed in base/simulated" in result.output and "resume" in result.output
    assert "low today" not in result.output


def test_a_finished_run_says_so_and_a_second_driver_does_not_erase_it(run):
    with run.locked():
        run.once("data", folder)
        with pytest.raises(ConfigError, match="another driver"), RunDirectory(run.root).locked():
            pass
        assert status_of(run.root).driver.state == "running"
    found = status_of(run.root)
    assert found.driver.state == "finished" and not found.remaining and found.seconds_left is None
    assert CliRunner().invoke(app, ["status", str(run.root)]).exit_code == 0


def test_a_killed_driver_is_seen_from_outside(run):
    code = (
        "import sys, time; from launch.run.directory import RunDirectory\n"
        "run = RunDirectory(sys.argv[1])\n"
        "with run.locked():\n    run.once('data', lambda folder: (print('in', flush=True), time.sleep(60)))\n"
    )
    driver = subprocess.Popen([sys.executable, "-c", code, str(run.root)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None and driver.stdout.readline() == "in\n"
    assert status_of(run.root).driver.state == "running"
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    found = status_of(run.root).driver
    assert (found.state, found.phase) == ("killed", "data")


def test_the_time_left_is_that_of_the_same_phases_before(run):
    times = {"data": 1, "base/adapter": 100, "base/simulated": 10, "base/discriminator": 20, "base/preferences": 30,
             "base/measures": 5, "it1/adapter": 40}  # fmt: skip
    with open(run.path("timings.jsonl"), "w") as file:
        for name, seconds in times.items():
            file.write(json.dumps({"phase": name, "seconds": seconds, "ended": 0}) + "\n")
            run.path(name).mkdir(parents=True)
    with run.locked():

        def make(path: Path) -> None:
            found = status_of(run.root, now=time.time() + 4)
            assert found.remaining == ("it1/discriminator", "it1/measures")
            assert found.seconds_left == pytest.approx(20 + 5 + 6, abs=1)  # 6 of this phase's 10 are left
            path.mkdir()

        run.once("it1/simulated", make)


def test_the_phases_of_a_run_are_known_beforehand():
    assert expected_phases(SETTINGS) == [
        "data", "base/adapter", "base/simulated", "base/discriminator", "base/preferences", "base/measures",
        "it1/adapter", "it1/simulated", "it1/discriminator", "it1/measures",
    ]  # fmt: skip
    judged = to_dict(load_config(ROOT / "conf" / "quickstart.yaml", ["num_iterations=0", "further_sft=never"]))
    assert expected_phases(judged)[2:] == ["base/simulated", "base/discriminator", "base/acceptance", "base/measures"]
    first = to_dict(load_config(None, ["num_iterations=1", "further_sft=first"]))
    assert expected_phases(first)[4:] == [
        "base/measures", "further_sft/adapter", "further_sft/simulated", "further_sft/discriminator",
        "further_sft/preferences", "further_sft/measures", "it1/adapter", "it1/simulated", "it1/discriminator",
        "it1/measures",
    ]  # fmt: skip
    assert expected_phases({"run": "runs/x"}) == []


def test_the_phases_of_a_chatbots_training_are_known_beforehand():
    saved = {
        "run": "runs/x", "alternate_every": 2, "rl": {"num_rounds": 3}, "rewards": {"issue_free": 1.0},
        "chatbot": {"kind": "engine", "engine": "chatbot", "adapter": "trained"},
        "evaluation": {"held_out_judge": {"judge": "detectors"}},
        "settings": {**SETTINGS, "engines": {name: {"model": "auto"} for name in ("simulator", "chatbot")}},
    }  # fmt: skip
    phases = expected_phases(saved)
    assert phases[:3] == ["chatbots/chatbot", "start/measured", "rl1/adapter"]
    assert phases[3:5] == ["refresh1/data", "refresh1/base/simulated"] and "refresh1/it1/adapter" in phases
    assert phases[-4:] == ["rl2/adapter", "rl2/measured", "start/judged", "rl2/judged"]
    given = {**saved, "alternate_every": 0, "evaluation": {}, "chatbot": {**saved["chatbot"], "adapter": "/an/adapter"}}
    assert expected_phases(given) == ["start/measured", "rl1/adapter", "rl1/measured"]


STUDY = to_dict(StudyConfig(out_dir="runs/s", sft_sizes=[4, 8], run=load_config(None, ["num_iterations=1"])))


def test_the_phases_of_a_study_are_known_beforehand():
    phases = expected_phases(STUDY)
    assert phases[0] == "adversarial/data" and phases[-2:] == ["labelled", "report"]
    assert phases[phases.index("real") :][:4] == [
        "real",
        *(f"measured/{v}/simulated" for v in ("untuned", "base", "it1")),
    ]
    assert phases.index("sizes/4/base/adapter") < phases.index("sizes/4/base/simulated")


def test_the_runs_inside_a_study_are_told_as_its_phases_with_their_progress_and_time_left(tmp_path):
    study = RunDirectory(tmp_path / "study")
    study.open(STUDY)
    run, measured = RunDirectory(study.path("adversarial")), study.inside("measured")
    for one in (run, measured):
        one.open(SETTINGS)

    def check(phase: str, where: RunDirectory) -> None:
        def make(path: Path) -> None:
            lines = Progress(str(where.path("logs/conversations-base.jsonl")), "conversations")
            for step in (1, 2, 3):
                lines.write(step, 10)
                time.sleep(0.01)  # lines have milliseconds, and steps in one of them no rate
            found = status_of(study.root)
            assert (found.driver.state, found.driver.phase) == ("running", phase)
            assert found.progress.done == 3 and phase not in found.remaining
            assert found.remaining[-1] == "report" and found.seconds_left is not None and found.at_least
            assert any("at least" in line for line in sentences(found))
            path.mkdir(parents=True)

        where.once(phase.removeprefix(f"{where.root.name}/"), make)

    with study.locked():
        with run.locked():
            run.once("data", folder)
            check("adversarial/base/simulated", run)
        check("measured/base/simulated", measured)
        study.once("real", folder)
    assert list(status_of(study.root).finished) == [
        "real", "adversarial/data", "adversarial/base/simulated", "measured/base/simulated",
    ]  # fmt: skip
    with pytest.raises(PhaseError), study.locked(), run.locked():
        run.once("base/adapter", lambda _: (_ for _ in ()).throw(PhaseError("no room")))
    failed = status_of(study.root).driver
    assert (failed.state, failed.phase, failed.error) == ("failed", "adversarial/base/adapter", "no room")


def test_failed_conversations_are_counted_over_all_versions(run):
    for version, counts in (("base", {"failed_provider": 2, "sessions": 9}), ("it1", {"failed_provider": 1})):
        run.path(f"{version}/simulated").mkdir(parents=True)
        run.path(f"{version}/simulated/counts.json").write_text(json.dumps(counts))
    assert status_of(run.root).failed_conversations == {"provider": 3}


def test_counting_writes_progress_lines(tmp_path):
    with counting("conversations", 3, tmp_path / "lines.jsonl") as advance:
        for _ in range(3):
            advance()
    lines = [json.loads(line) for line in (tmp_path / "lines.jsonl").read_text().splitlines()]
    assert [(line["step"], line["total"]) for line in (lines[0], lines[-1])] == [(1, 3), (3, 3)]


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="not a run directory"):
        status_of(tmp_path)
