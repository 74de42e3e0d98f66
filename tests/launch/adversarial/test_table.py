"""What the run's table says in words."""

import io
import json
from pathlib import Path
from typing import Any

from rich.console import Console

from launch.adversarial.table import in_short, learning_curves, learnt, new_users, print_report
from launch.run.directory import RunDirectory


def row(version: str, accuracy: float, ttr: float, entropy: float) -> dict[str, Any]:
    spread = {f"{who}/{key}_sd": 0.1 for who in ("real", "realism") for key in ("ttr", "entropy")}
    means = {"real/ttr_mean": 0.5, "real/entropy_mean": 6.0, "realism/ttr_mean": ttr, "realism/entropy_mean": entropy}
    judged = {"disc/accuracy_overall": accuracy, "disc/referee_accuracy": accuracy, "disc/num_session": 400}
    return {"version": version} | means | spread | judged


def test_a_version_that_passes_people_has_closed_no_more_of_the_distance_than_one_as_far_on_this_side() -> None:
    base = row("base", 0.8, ttr=0.6, entropy=6.01)
    for ttr in (0.48, 0.52):
        sentences = in_short([base, row("it1", 0.7, ttr, entropy=6.3)])
        assert "from people in 80% of cases, and tells it1 in 70%" in sentences[0]
        assert sentences[1] == "Of the base's distance to people, the last version closes: type-token ratio 80%."
    assert "type-token ratio -50%" in in_short([base, row("it1", 0.7, ttr=0.35, entropy=6.3)])[1]


def test_a_distance_of_the_base_within_two_standard_errors_is_called_chance() -> None:
    sentences = in_short([row("base", 0.8, 0.6, entropy=6.01), row("it1", 0.7, 0.52, entropy=6.3)])
    assert sentences[2] == "The base was as close to people as chance allows in: word entropy."


def test_further_sft_is_the_last_version_where_it_was_one_and_not_where_it_is_a_row() -> None:
    base, further, later = (row(name, accuracy, 0.6, 6.3) for name, accuracy in
                            (("base", 0.8), ("further_sft", 0.7), ("it1", 0.75)))  # fmt: skip
    refused = {**later, "accept/taken": 0}
    assert "tells further_sft in 70%" in in_short([base, further, refused])[0]
    assert "tells it1 in 75%" in in_short([base, later, further])[0]
    assert in_short([base, refused, further])[0].startswith("No version after the base was taken")
    assert in_short([base, row("base_of_8", 0.66, 0.6, 6.3)]) == ["No version was trained after the base."]


def test_what_further_sft_alone_came_to_is_said_where_a_later_version_goes_on_from_it() -> None:
    base, further, later = (row(name, accuracy, 0.6, 6.3) for name, accuracy in
                            (("base", 0.8), ("further_sft", 0.7), ("it1", 0.65)))  # fmt: skip
    sentences = in_short([base, further, later])
    assert "tells it1 in 65%" in sentences[0]
    assert sentences[1].startswith("Further fine-tuning on the same real sessions") and sentences[1].endswith("70%.")
    assert not any("Further" in sentence for sentence in in_short([base, later, further]))


def test_accuracies_with_fewer_training_sessions_are_told_by_number() -> None:
    rows = [row("base", 0.8, 0.6, 6.1) | {"disc/accuracy_overall_40": 0.7, "disc/accuracy_overall_420": 0.75}]
    rows.append(row("it1", 0.7, 0.6, 6.1) | {"disc/accuracy_overall_40": 0.6, "disc/accuracy_overall_420": None})
    assert learning_curves(rows) == [
        "over all turns, with 40 training sessions: base 0.70, it1 0.60",
        "over all turns, with 420 training sessions: base 0.75",
    ]
    assert learning_curves([row("base", 0.8, 0.6, 6.1)]) == []


def test_accuracies_of_discriminators_of_evaluation_users_are_told_where_there_are_any() -> None:
    rows = [row("base", 0.8, 0.6, 6.1) | {"disc/new_users_accuracy": 0.75}, row("gpt-4o", 0.9, 0.6, 6.1)]
    assert [sentence.rpartition(": ")[2] for sentence in new_users(rows)] == ["base 0.75"]
    assert new_users(rows[1:]) == []


def test_an_update_that_moved_further_than_it_learnt_is_named_with_what_to_do() -> None:
    rows = [row("base", 0.8, 0.6, 6.1), row("it1", 0.7, 0.6, 6.1), row("it2", 0.7, 0.6, 6.1)]
    assert learnt(rows) == []
    rows[1] |= {"dpo/held_out_gain": 0.0136, "dpo/held_out_most": 0.122}
    assert learnt(rows)[0].endswith("(loss a turn): it1 +0.014 of 0.122")
    rows[2] |= {"dpo/held_out_gain": -0.0216}
    assert learnt(rows)[0].endswith(
        "it1 +0.014 of 0.122, it2 -0.022; below 0, it2 moved further than what was learnt: lower dpo.learning_rate"
    )


def test_the_files_that_a_report_names_are_those_of_the_run_each_on_one_line(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path)
    (tmp_path / "config.yaml").write_text("{}")
    rows = [{**row(version, 0.8, 0.5, 6.0), "step": i} for i, version in enumerate(("base", "further_sft", "it1"))]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    for file in ("base/adapter", "further_sft/adapter", "further_sft/preferences/pairs.jsonl", "it1/adapter"):
        (tmp_path / file).mkdir(parents=True)
    print_report(run, Console(file=(out := io.StringIO()), width=40))
    lines = [line.split("  ") for line in out.getvalue().splitlines()]
    found = {parts[1]: parts[-1].strip() for parts in lines if len(parts) > 2}
    assert found["adapters"] == "base/adapter ... it1/adapter"
    assert found["preference pairs"] == "further_sft/preferences/pairs.jsonl"
    assert any("simulated sessions   none" in line for line in out.getvalue().splitlines())
