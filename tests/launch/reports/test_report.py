"""The report in a real browser, from disk and without network: figures load, tables sort, transcripts open."""

from __future__ import annotations

from html import unescape
from importlib.util import find_spec
from pathlib import Path

import pytest
import typer

from launch.reports.evaluate import register
from rlenv.data.sessions import read_sessions
from rlenv.evaluation.embeddings.models import PACKAGE

pytestmark = pytest.mark.xdist_group("report")  # its fast and its slow tests share one evaluation


@pytest.fixture(scope="module")
def out(files, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("report") / "evaluation"
    app = typer.Typer()
    register(app)
    app([str(files.run), "--out", str(folder), "--transcripts", "1", "--embed-sessions", "12"], standalone_mode=False)
    return folder


def test_the_report_needs_no_network_and_shows_real_users_only_on_request(files, out):
    html = unescape((out / "report.html").read_text())
    assert 'src="http' not in html and "<link" not in html and "@import" not in html
    real = {text for s in read_sessions(files.real) for text in s.user_messages() if len(text) > 40}
    simulated = {text for p in ("base", "it1") for s in read_sessions(files.run / p / "simulated/sessions.jsonl")
                 for text in s.user_messages()}  # fmt: skip
    assert real - simulated and not any(text in html for text in real - simulated)


@pytest.fixture(scope="module")
def page(out, open_page):
    with open_page(out / "report.html") as page:
        yield page


@pytest.mark.slow
def test_every_figure_loads(page, out):
    widths = page.eval_on_selector_all("img", "all => all.map(image => image.naturalWidth)")
    assert len(widths) == len(list((out / "figures").glob("*.png"))) >= 5
    assert min(widths) > 300


@pytest.mark.slow
@pytest.mark.skipif(find_spec(PACKAGE) is None, reason="MiniLM is not installed (see launch/install.sh)")
def test_session_embeddings_have_a_figure_and_a_table(page):
    assert page.locator("section:has(#figure3_embeddings) img").evaluate("image => image.naturalWidth") > 300
    rows = page.locator("#figure3_embeddings ~ .table tbody tr").all_inner_texts()
    assert [row.split("\t")[0] for row in rows] == ["base", "it1", "real, one half against the other"]
    assert "Embedded by all-MiniLM-L6-v2." in page.locator("section:has(#figure3_embeddings) p").inner_text()


@pytest.mark.slow
def test_a_click_on_a_column_sorts_it_both_ways_with_missing_values_last(page):
    table = page.locator("#figure2_issue_rates ~ .table table")
    table.locator("th button").nth(1).click()

    def cells() -> list[str]:
        return table.locator("tbody tr td:nth-child(2)").evaluate_all("all => all.map(cell => cell.dataset.sort)")

    falling = [int(value) for value in cells() if value]
    assert falling == sorted(falling, reverse=True) and len(set(falling)) > 1
    table.locator("th button").nth(1).click()
    assert [int(value) for value in cells() if value] == sorted(falling)


@pytest.mark.slow
def test_a_transcript_opens_with_rewards_and_issues(page):
    transcript = page.locator("details.transcript").first
    assert not transcript.locator(".message").first.is_visible()
    transcript.locator("summary").click()
    assert transcript.locator(".message").first.is_visible()
    rewards = [text for text in transcript.locator(".reward").all_inner_texts() if text]
    assert rewards and all(text[0] in "+-" for text in rewards)
    assert page.locator("details.transcript .label").count() > 0
