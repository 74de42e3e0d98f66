"""A tiny run with everything of docs/method.md: the files that it leaves, and that a copy resumes to the same bytes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest

from launch.adversarial.algorithm import run_adversarial
from launch.run.contents import simulator_versions
from launch.run.directory import RunDirectory
from launch.run.settings import load_config

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.exhaustive]


@pytest.fixture(scope="module")
def run(write_config, local_ray, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    path = write_config(
        out_dir=str(tmp_path_factory.mktemp("method") / "run"),
        num_iterations=2,
        discriminator={"kind": "likelihood", "max_tokens": 1024, "learning_curve": [8]},
        preferences={"turns": "drawn", "num_turns": 2, "num_alternatives": 3},
        dpo={"targets": "listwise", "held_out": 0.2},
        accept="fresh_judge",
        most_tries=2,
        further_sft="first",
        resampled=[2],
    )
    return run_adversarial(load_config(path))


def rows(run: RunDirectory) -> dict[str, dict[str, Any]]:
    found = [json.loads(line) for line in run.path("metrics.jsonl").read_text().splitlines()]
    return {row["version"]: row for row in found}


def test_every_version_has_a_verdict_and_the_rows_are_measured(run: RunDirectory):
    measured = rows(run)
    versions = [name for name in measured if name in ("base", "further_sft", "it1", "it2")]
    assert versions[:3] == ["base", "further_sft", "it1"]
    for name in versions:
        verdict = json.loads(run.path(f"{name}/acceptance/verdict.json").read_text())
        assert 0 <= verdict["accuracy"] <= 1
    taken = [v for v in versions if json.loads(run.path(f"{v}/acceptance/verdict.json").read_text())["taken"]]
    assert f"{taken[-1]}_of_2" in measured
    for row in measured.values():
        assert row["disc/ece"] is not None and row["disc/style_referee_accuracy"] is not None
        assert 0 <= row["disc/accuracy_overall_8"] <= 1 and 0 <= row["disc/new_users_accuracy"] <= 1
    assert measured["base"]["disc/power_swapped_accuracy"] is not None


def test_the_first_update_goes_on_from_the_newest_version_taken(run: RunDirectory):
    first = json.loads(run.path("further_sft/acceptance/verdict.json").read_text())["taken"]
    assert run.has("further_sft/preferences") == first
    card = run.path("it1/adapter/README.md").read_text()
    assert f"started from | {'further_sft' if first else 'base'}" in card and "further_sft: " in card
    found = simulator_versions(run, load_config(run.path("config.yaml")))
    assert list(found)[:3] == ["base", "further_sft", "it1"]


def test_the_held_out_margin_is_reported(run: RunDirectory):
    summary = json.loads(run.path("logs/dpo-it1-summary.json").read_text())
    assert summary["target"] > 0 and {"held_out_margin", "held_out_gain"} <= summary.keys()


def test_a_version_that_was_deleted_is_made_again_with_the_same_bytes(run: RunDirectory, tmp_path: Path):
    kept = {p: p.read_bytes() for p in sorted(run.path("it1").rglob("*")) if p.is_file()}
    shutil.rmtree(run.path("it1"))
    run_adversarial(load_config(run.path("config.yaml")))
    again = {p: p.read_bytes() for p in sorted(run.path("it1").rglob("*")) if p.is_file()}
    assert {p for p in kept if kept[p] != again.get(p)} == set()


def test_its_users_are_resampled_in_an_env(run: RunDirectory):
    env = gym.make("rlenv/Conversation-v0", config=str(run.root), overrides=["resample=2"])
    _, info = env.reset(seed=1)
    assert info["provenance"].simulator.resampled_from == 2
    env.close()
