"""Where a run's time went is read from its timings and progress lines, by hand here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from launch.cli.main import app
from launch.reports.phase_times import BETWEEN, PhaseTime, phase_times, summed
from rlenv.core.progress import Progress, read_curve, read_progress


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with three phases: 100 to 110 without a model, 112 to 172 in parts, 172 to 192 of an older version."""
    ends = [("data", 10.0, 110.0), ("base/discriminator", 60.0, 172.0), ("base/simulated", 20.0, 192.0)]
    rows = [{"phase": phase, "seconds": seconds, "ended": ended} for phase, seconds, ended in ends]
    (tmp_path / "timings.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    parts = {
        "discriminator-base": [(1, 130.0, 122.0), (2, 140.0, 122.0), (3, 160.0, 150.0)],
        "conversations-base": [(1, 180.0, None), (2, 190.0, None)],
    }
    (tmp_path / "logs").mkdir()
    (tmp_path / "config.yaml").write_text("num_iterations: 1\n")
    for name, lines in parts.items():
        rows = [
            {"phase": name, "step": step, "total": 3, "time": time} | ({"began": began} if began else {})
            for step, time, began in lines
        ]
        (tmp_path / "logs" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_a_model_works_from_where_a_part_began_to_its_last_line(run):
    assert phase_times(run) == [
        PhaseTime("data", 10.0, 0.0, 10.0, 0.0),
        PhaseTime("base/discriminator", 60.0, 28.0, 10.0, 12.0),  # 122 to 140 and 150 to 160
        PhaseTime("base/simulated", 20.0, 10.0, 8.0, 2.0),  # from the first line, where none says when it began
        PhaseTime(BETWEEN, 2.0, 0.0, 2.0, 0.0),
    ]
    assert summed(phase_times(run)) == {"seconds": 92.0, "working": 38.0, "idle": 54.0, "idle_share": 0.587}


def test_parts_that_overlap_count_once(run):
    line = {"phase": "other", "step": 1, "total": 1, "time": 158.0, "began": 120.0}
    (run / "logs" / "other.jsonl").write_text(json.dumps(line) + "\n")
    assert phase_times(run)[1] == PhaseTime("base/discriminator", 60.0, 40.0, 8.0, 12.0)


def test_the_command_prints_the_table_and_json(run):
    shown = CliRunner().invoke(app, ["status", str(run), "--phases"], env={"COLUMNS": "120"})
    assert shown.exit_code == 0 and "base/discriminator" in shown.output and "58.7%" in shown.output
    found = json.loads(CliRunner().invoke(app, ["status", str(run), "--phases", "--json"]).output)
    assert found["all"]["idle"] == 54.0 and found["phases"][1]["working"] == 28.0


def test_a_run_that_has_not_begun_has_no_times(tmp_path):
    assert phase_times(tmp_path) == [] and summed([])["idle_share"] == 0.0


def test_progress_lines_say_when_the_work_began_and_curves_leave_it_out(tmp_path):
    path = tmp_path / "sft-base.jsonl"
    progress = Progress(str(path), "sft")
    progress.begin()
    progress.write(1, 2, loss=0.5)
    progress.begin()
    progress.write(2, 2, loss=0.25)
    one, two = read_progress(path)
    assert one["began"] == two["began"] <= one["time"]
    assert read_curve(path) == [(1, {"sft/loss": 0.5}), (2, {"sft/loss": 0.25})]
