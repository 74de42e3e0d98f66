"""The report of a chatbot's training: a self-contained page, its tables, and transcripts of the same seed."""

import csv
import json
from html import unescape

import pytest

from launch.chatbot.report_page import verdict, write_chatbot_report
from launch.chatbot.report_transcripts import paired_transcripts
from launch.reports.figures import new_figure, save
from rlenv.core.errors import ConfigError
from rlenv.core.types import Message
from rlenv.evaluation.chatbot_rl.figures import figures_of
from rlenv.evaluation.chatbot_rl.paired import paired_evaluation
from rlenv.evaluation.chatbot_rl.records import CurvePoint, EvaluationEpisode, EvaluationSet, Users


def episode(context: str, seed: int, reply: str, num_issues: int) -> EvaluationEpisode:
    messages = []
    for i in range(4):
        messages += [
            Message(role="user", content=f"user {i} <b>&", actions=("negative_affect",)),
            Message(
                role="assistant",
                content=f"{reply} {i} in {context} under {seed} \ud83d",
                issues=("repetitive_questions",) if i < num_issues else (),
            ),
        ]
    return EvaluationEpisode(
        context_id=context, counterpart="base", seed=seed, messages=tuple(messages), rewards=(-1.0 * num_issues,),
        ended_by="user", end_reason="end_of_session",
    )  # fmt: skip


def sets() -> list[EvaluationSet]:
    result = []
    for name, kind, fall in (("base", "training", 2), ("it3", "held_out", 2), ("people", "population", 0)):
        before = [episode(f"c{i}", s, f"before {name}", 2 + i % 2) for i in range(10) for s in (1, 2)]
        after = [
            episode(h.context_id, h.seed, f"after {name}", max(0, 2 + i % 2 - fall) if i != 7 else 4)
            for i, h in enumerate(before)
        ]
        after[3] = EvaluationEpisode(
            context_id=after[3].context_id, counterpart="base", seed=after[3].seed, failure="engine"
        )
        result.append(EvaluationSet(users=Users(name=name, kind=kind), before=tuple(before), after=tuple(after)))
    return result


def curve() -> list[CurvePoint]:
    return [
        CurvePoint(
            round=r, num_updates=2 * r, kl=0.01 * r, sampler_gap_mean=0.02, staleness_max=1.0, trained_tokens=100,
            train=figures_of([episode(f"c{i}", r, "word " * (10 + 3 * r), 1 + (i + r) % 3) for i in range(8)]),
            held_out={"it3": figures_of([episode(f"c{i}", r, "word", 2) for i in range(8)])} if r % 2 == 0 else {},
        )
        for r in range(8)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rl") / "report"
    folder.mkdir()
    figure, (ax,) = new_figure(3, 2)
    ax.plot([0, 1], [0, 1])
    picture = save(figure, folder, "learning_curve", "Reward by round")
    write_chatbot_report(folder, "run7", curve(), sets(), [picture])
    return folder


def test_the_page_needs_no_network_and_contains_the_figure(out):
    html = (out / "report.html").read_text()
    assert 'src="http' not in html and "<link" not in html and "@import" not in html
    assert html.count("data:image/png;base64,") == 1 and 'alt="Reward by round"' in html
    assert "user 0 <b>&" not in html and "user 0 &lt;b&gt;&amp;" in html


def test_the_page_has_the_verdict_of_each_group_and_whether_the_gain_carried_over(out):
    html = unescape((out / "report.html").read_text())
    rows = paired_evaluation(sets()).rows
    assert [row.verdict for row in rows] == ["better", "better", "not shown"]
    for row in rows:
        assert verdict(row) in html
    assert "it3 (never trained with): better." in html and "carried over (100 % of it)." in html
    assert "people (the true users): not shown." in html and "is not shown" in html
    assert "3 pairs were left out" in html


def test_a_fired_alarm_stands_out_and_quiet_ones_are_named(out):
    html = unescape((out / "report.html").read_text())
    assert '<li class="alarm"><b>length</b>: fired. Words of a reply with training users moved by' in html
    assert "<b>premature wrap up</b>: quiet." in html
    found = json.loads((out / "evaluation.json").read_text())
    assert {a["name"]: a["state"] for a in found["alarms"]}["length"] == "fired"
    assert [row["verdict"] for row in found["paired"]["rows"]] == ["better", "better", "not shown"]


def test_tables_have_the_numbers_of_the_evaluation(out):
    def table(name: str) -> list[dict[str, str]]:
        return list(csv.DictReader((out / f"tables/{name}.csv").open()))

    rows = paired_evaluation(sets()).rows
    assert [row["users"] for row in table("users")] == ["base", "it3", "people"]
    for cells, row in zip(table("users"), rows, strict=True):
        assert float(cells["delta"]) == row.issue_rate.delta.value and float(cells["z"]) == row.issue_test.test.z
        assert int(cells["dropped"]) == 1
    [first, *_] = table("categories")
    assert first["category"] == "repetitive_questions" and float(first["p_holm"]) == rows[0].categories[0].p_holm
    rounds = table("rounds")
    assert len(rounds) == 8 and float(rounds[3]["kl"]) == 0.03
    assert rounds[2]["reward it3"] == "-2.0" and rounds[3]["reward it3"] == ""
    assert {row["figure"] for row in table("figures")} >= {"reward", "reply_words", "distinct_2", "sameness", "turns"}


def test_transcripts_before_and_after_have_the_same_context_and_seed():
    pairs = paired_transcripts(sets(), 2, seed=3)
    assert [p.why for p in pairs if p.users == "base"] == ["drawn", "drawn", "largest gain", "largest loss"]
    for pair in pairs:
        for side, lines in (("before", pair.before.lines), ("after", pair.after.lines)):
            texts = [line.text for line in lines if line.role == "chatbot"]
            assert all(t.startswith(f"{side} {pair.users}") for t in texts)
            assert all(f"in {pair.context_id} under {pair.seed}" in t for t in texts)
    loss = next(p for p in pairs if p.why == "largest loss")
    assert loss.after.num_issues > loss.before.num_issues
    assert paired_transcripts(sets(), 2, seed=3) == pairs != paired_transcripts(sets(), 2, seed=4)


def test_conversations_that_are_not_pairs_make_no_report(tmp_path):
    [one, *_] = sets()
    with pytest.raises(ConfigError, match="conversations are there before only"):
        write_chatbot_report(tmp_path / "r", "run", curve(), [one.model_copy(update={"after": one.after[1:]})])
    assert not (tmp_path / "r").exists()


def test_a_run_without_rounds_has_a_report(tmp_path):
    found = write_chatbot_report(tmp_path, "run", [], [])
    assert found.paired is None
    html = (tmp_path / "report.html").read_text()
    assert "nothing can be said" in html and "not judged" in html
