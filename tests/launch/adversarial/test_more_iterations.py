"""A finished run that goes on with more iterations: its files are those of a run that had them from the start."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from launch.adversarial.acceptance import Verdict, early_end, judge_version
from launch.adversarial.algorithm import run_adversarial
from launch.adversarial.run import AdversarialRun
from launch.reports.verify import verify
from launch.run.settings import load_config
from rlenv.core.errors import ConfigError
from tests.launch.adversarial.test_flow import compare, made


@pytest.mark.exhaustive  # three whole runs; what may change is tested in launch/run/test_preflight.py
@pytest.mark.slow
@pytest.mark.ray
def test_a_finished_run_goes_on_to_the_files_of_a_run_that_was_started_with_more_iterations(
    write_config, tiny_llama, finished_run, local_ray, tmp_path
):
    """Its rows are read by the newest version, and drawn from it: they are made again."""
    config = write_config(
        out_dir=str(tmp_path / "run"),
        simulator={"model": str(tiny_llama), "adapter": str(finished_run / "base/adapter")},
        backbone=str(tiny_llama),
        engines={"simulator": {"max_model_len": 1024}},
        discriminator={"kind": "likelihood", "max_tokens": 1024},
        preferences={"num_alternatives": 3},
        dpo={"targets": "soft"},
        zero_shot={"untuned": {"kind": "engine", "engine": "simulator", "sampling": {"max_tokens": 20}}},
        resampled=[2],
    )

    def run(num_iterations: int) -> Path:
        return run_adversarial(load_config(config, [f"num_iterations={num_iterations}"])).root

    at_once = run(2).rename(tmp_path / "at once")
    root = run(1)
    before = {path: path.stat().st_mtime_ns for path in root.glob("*/*/manifest.json")}
    assert (root / "it1_of_2").is_dir() and not (root / "it1/preferences").exists()
    first = made(root)
    run(2)
    compare(root, at_once)
    again = ["untuned/discriminator", "untuned/measures"]
    later = [f"it2/{phase}" for phase in ("adapter", "simulated", "discriminator", "measures")]
    resampled = [f"it2_of_2/{phase}" for phase in ("simulated", "discriminator", "measures")]
    kept = [phase for phase in first if phase not in again and not phase.startswith("it1_of_2/")]
    assert made(root) == [*kept, "it1/preferences", *later, *again, *resampled]
    for path, time in before.items():
        phase = path.parent.relative_to(root).as_posix()
        remade = phase in again or phase.startswith("it1_of_2")
        assert (path.exists() and path.stat().st_mtime_ns == time) != remade
    assert verify(root).sound
    versions = [json.loads(line)["version"] for line in (root / "metrics.jsonl").read_text().splitlines()]
    assert versions == ["base", "it1", "it2", "untuned", "it2_of_2"]
    with pytest.raises(ConfigError, match=r"num_iterations can be raised, but 1 is too few .*it2/adapter"):
        run(1)
    compare(root, at_once)


def test_a_run_ends_early_for_a_reason_that_names_the_setting_to_change():
    config = load_config(
        None, ["discriminator.kind=likelihood", "accept=fresh_judge", "stop=at_chance", "most_tries=2"]
    )
    assert early_end(config, Verdict(), 1) is None
    assert "stop=never" in str(early_end(config, Verdict(at_chance=True), 0))
    assert "most_tries" in str(early_end(config, Verdict(), 2))
    assert early_end(load_config(None), Verdict(at_chance=True), 0) is None


def test_a_run_that_judges_no_versions_any_more_keeps_no_verdicts(tmp_path):
    """As a run that was started with ``stop=never``."""
    run = AdversarialRun(load_config(None, [f"out_dir={tmp_path / 'run'}"]))
    for version in ("base", "it1"):
        run.directory.path(f"{version}/acceptance").mkdir(parents=True)
    assert judge_version(run, "base", None, [], {}).taken
    assert [p.parent.name for p in run.directory.root.glob("*/*")] == ["it1"]
