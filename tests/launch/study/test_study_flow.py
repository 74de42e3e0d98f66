"""A whole study on the CPU, on a finished run of Algorithm 1; and a study that is killed and resumed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from launch.cli.status import expected_phases, status_of
from launch.run.contents import run_settings
from launch.study.config import load_study
from launch.study.driver import run_study
from launch.study.report import print_study
from rlenv.data.sessions import read_sessions

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.xdist_group("tiny run")]

NOT_COMPARED = (
    "adversarial",
    "logs",
    "training",
)  # finished before the study; progress with wall times; Ray Train's files


@pytest.fixture(scope="module")
def study(tiny_run) -> Path:
    """A finished study, run in this process on a finished run of Algorithm 1."""
    root = run_study(load_study(tiny_run.study))
    print_study(root)
    return root.root


@pytest.fixture(scope="module")
def settings(tiny_run) -> dict[str, Any]:
    return yaml.safe_load(tiny_run.study.read_text())


def files(study: Path) -> dict[str, bytes]:
    """Returns the files of a study that do not depend on when it was run."""
    paths = [p for p in sorted(study.rglob("*")) if p.is_file() and not {*NOT_COMPARED} & {*p.relative_to(study).parts}]
    return {str(p.relative_to(study)): p.read_bytes() for p in paths if p.name not in ("timings.jsonl", ".lock")}


def test_phases_whose_folders_were_deleted_are_remade_from_the_files_of_the_others(study, tiny_run, caplog):
    deleted = ("measured/untuned/simulated", "sizes/4/base/simulated", "labelled")
    before = files(study)
    for phase in deleted:
        shutil.rmtree(study / phase)
    caplog.set_level("INFO")
    run_study(load_study(tiny_run.study))
    made = [message.split(":")[0] for message in caplog.messages if message.endswith(": started")]
    assert sorted(made) == sorted(["untuned/simulated", "base/simulated", "labelled"])
    after = files(study)
    assert after.keys() == before.keys()
    assert [name for name in after if after[name] != before[name]] == []


def test_the_status_of_a_finished_study_knows_its_phases_and_those_of_the_runs_inside_it(study):
    status = status_of(study)
    assert (status.driver.state, status.remaining) == ("finished", ())
    assert sorted(status.finished) == sorted(expected_phases(run_settings(study)))


@pytest.mark.exhaustive
def test_a_killed_study_resumes_and_writes_its_report(settings, driver_class, ray_folder, tmp_path):
    where, config = tmp_path / "study", tmp_path / "study.yaml"
    run = {**settings["run"], "ray": {"num_cpus": 4, "num_gpus": 0}}
    config.write_text(yaml.safe_dump({**settings, "out_dir": str(where), "run": run}))
    first = driver_class(config, ray_folder, "study")
    first.wait_for("untuned/simulated: started")
    first.kill()
    assert not (where / "measured/untuned/simulated").exists() and (where / "adversarial/it1/measures").exists()
    second = driver_class(config, ray_folder, "study")
    second.wait()
    assert second.logged("it1/adapter: already done") and second.logged("report: done")


def test_every_simulator_talks_to_every_chatbot_and_treatment(study, settings):
    for version in ("untuned", "base", "it1"):
        sessions = read_sessions(study / f"measured/{version}/simulated/sessions.jsonl", neighbours="keep")
        assert {s.chatbot for s in sessions} == {*settings["chatbots"], "echo-fixed"}
    truth = read_sessions(study / "real/sessions.jsonl.gz", neighbours="keep")
    assert len(truth) == 40 and all(m.issues is not None for s in truth for m in s.messages if m.role == "assistant")


def test_no_user_of_the_real_sessions_was_trained_on(study):
    trained = {
        s.user_id
        for part in ("sft", "adversarial")
        for s in read_sessions(study / f"adversarial/data/{part}.jsonl.gz", neighbours="keep")
    }
    measured = read_sessions(study / "measured/it1/simulated/sessions.jsonl", neighbours="keep")
    assert trained and not trained & {s.user_id for s in measured}


def test_the_report_has_the_papers_tables_and_those_of_the_study(study):
    tables = {path.stem for path in (study / "report/tables").glob("*.csv")}
    assert {"goals", "like_with_like", "judge_agreement", "sft_sizes", "table1_linguistic", "table2_discriminator",
            "table3_validity", "table4_actions", "figure6_chatbots", "table5_ab"} <= tables  # fmt: skip
    metrics = json.loads((study / "report/metrics.json").read_text())
    assert [s["name"] for s in metrics["simulators"]] == ["untuned", "base", "it1", "aggregate"]
    assert len(metrics["validity"]["real"]) == 3  # the treatment is only in the A/B test
    assert {row["treatment"] for row in metrics["ab"]["rows"]} == {"echo-fixed"}
    html = (study / "report/report.html").read_text()
    assert html.index('id="goals"') < html.index('id="table1_linguistic"') < html.index('id="table5_ab"')
    goals = json.loads((study / "report/goals.json").read_text())
    assert len(goals) == 9 and all(isinstance(goal["met"], bool) for goal in goals)


def test_in_a_browser_figures_load_goals_sort_and_a_transcript_opens(study, open_page):
    with open_page(study / "report/report.html") as page:
        widths = page.eval_on_selector_all("img", "all => all.map(image => image.naturalWidth)")
        assert len(widths) >= 5 and min(widths) > 300
        goals = page.locator("#goals ~ .table table")
        goals.locator("th button").first.click()
        names = goals.locator("tbody tr td:first-child").all_inner_texts()
        assert len(names) == 9 and names == sorted(names, key=str.casefold, reverse=True)
        transcript = page.locator("details.transcript").first
        transcript.locator("summary").click()
        assert transcript.locator(".message").first.is_visible()
        assert page.locator("details.transcript .reward.up, details.transcript .reward.down").count() > 0
        assert page.locator("details.transcript .label").count() > 0
