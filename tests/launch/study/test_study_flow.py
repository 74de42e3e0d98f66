"""A whole study on the CPU, killed once on the way and started again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from rlenv.data.sessions import read_sessions

pytestmark = [pytest.mark.slow, pytest.mark.ray]

STUDY = {
    "chatbots": ["steady", "echo", "scattered"],
    "treatments": {"echo-fixed": {"control": "echo", "habits": {"repeat": 0.0}}},
    "real_sessions_per_chatbot": 10,
    "simulated_sessions_per_chatbot": 3,
    "judge_sessions": 60,
    "sft_sizes": [4, 8],
    "size_sessions_per_chatbot": 2,
}


@pytest.fixture(scope="module")
def study(write_config, driver_class, ray_folder, tmp_path_factory) -> Path:
    where = tmp_path_factory.mktemp("study") / "study"
    run = yaml.safe_load(write_config(collect={"num_contexts": 16}, ray={"num_cpus": 4}).read_text())
    config = where.with_suffix(".yaml")
    config.write_text(yaml.safe_dump({**STUDY, "out_dir": str(where), "run": run}))
    first = driver_class(config, ray_folder, "study")
    first.wait_for("untuned/simulated: begins")
    first.kill()
    assert not (where / "measured/untuned/simulated").exists() and (where / "adversarial/it1/measures").exists()
    second = driver_class(config, ray_folder, "study")
    second.wait()
    assert second.said("it1/adapter: there already") and second.said("report: done")
    return where


def test_every_simulator_meets_every_chatbot_and_treatment_as_often_as_asked(study):
    for version in ("untuned", "base", "it1"):
        sessions = read_sessions(study / f"measured/{version}/simulated/sessions.jsonl", neighbours="keep")
        assert {s.chatbot for s in sessions} == {*STUDY["chatbots"], "echo-fixed"}
    truth = read_sessions(study / "real/sessions.jsonl.gz", neighbours="keep")
    assert len(truth) == 40 and all(m.issues is not None for s in truth for m in s.messages if m.role == "assistant")


def test_no_user_of_the_truth_was_trained_on(study):
    trained = {
        s.user_id
        for part in ("sft", "adversarial")
        for s in read_sessions(study / f"adversarial/data/{part}.jsonl.gz", neighbours="keep")
    }
    measured = read_sessions(study / "measured/it1/simulated/sessions.jsonl", neighbours="keep")
    assert trained and not trained & {s.user_id for s in measured}


def test_the_report_has_the_papers_tables_and_the_studys_own(study):
    tables = {path.stem for path in (study / "report/tables").glob("*.csv")}
    assert {"goals", "like_with_like", "judge_agreement", "sft_sizes", "table1_linguistic", "table2_discriminator",
            "table3_validity", "table4_actions", "figure6_chatbots", "table5_ab"} <= tables  # fmt: skip
    metrics = json.loads((study / "report/metrics.json").read_text())
    assert [s["name"] for s in metrics["simulators"]] == ["untuned", "base", "it1", "aggregate"]
    assert len(metrics["validity"]["real"]) == 3  # the treatment is in the A/B test alone
    assert {row["treatment"] for row in metrics["ab"]["rows"]} == {"echo-fixed"}
    html = (study / "report/report.html").read_text()
    assert html.index('id="goals"') < html.index('id="table1_linguistic"') < html.index('id="table5_ab"')
    goals = json.loads((study / "report/goals.json").read_text())
    assert len(goals) == 9 and all(isinstance(goal["met"], bool) for goal in goals)


def test_the_report_opens_in_a_browser_its_figures_load_its_goals_sort_and_a_transcript_opens(study, open_page):
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
