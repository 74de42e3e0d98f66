"""A whole run on the CPU, undisturbed; and the same run killed inside every phase and started again: equal files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from rlenv.data.sessions import read_sessions

pytestmark = [pytest.mark.slow, pytest.mark.ray]

NOT_COMPARED = ("logs", "training")  # progress with wall times; Ray Train's own


def trained(name: str) -> Callable[[Path], Callable]:
    """The training has made its first step."""
    return lambda run: (
        lambda _: (run / "logs" / f"{name}.jsonl").exists() and bool((run / "logs" / f"{name}.jsonl").read_text())
    )


def runs(actor: str) -> Callable[[Path], Callable]:
    """The actor's process is there."""
    return lambda _: lambda driver: driver.has_process(actor)


def at_once(_: Path) -> Callable:
    """The phase has begun."""
    return lambda _: True


INSIDE = {
    "data": at_once,
    "models/small-llama": trained("pretrain"),
    "base/adapter": trained("sft-base"),
    "base/simulated": runs("EngineActor"),
    "base/discriminator": trained("discriminator-base"),
    "base/preferences": runs("_ScoringActor"),
    "base/measures": at_once,
    "it1/adapter": trained("dpo-it1"),
}
"""One phase of each kind, and how one sees from outside that its work is under way."""

PHASES = [*INSIDE, "it1/simulated", "it1/discriminator", "it1/measures"]
"""All phases of the run, in order."""


@pytest.fixture(scope="module")
def where(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("flow")


@pytest.fixture(scope="module")
def config(where, write_config) -> Path:
    return write_config(out_dir=str(where / "run"))


@pytest.fixture(scope="module")
def undisturbed(where, config, ray_folder, driver_class) -> Path:
    """The run as it is when nobody disturbs it, moved away so that another can be held under the same name."""

    driver = driver_class(config, ray_folder)
    driver.wait()
    phases = [json.loads(line)["phase"] for line in (where / "run" / "timings.jsonl").read_text().splitlines()]
    assert phases == PHASES
    return (where / "run").rename(where / "undisturbed")


def files(run: Path) -> dict[str, bytes]:
    """Returns every file of a run that is the same whenever it is made."""
    paths = [p for p in sorted(run.rglob("*")) if p.is_file() and p.relative_to(run).parts[0] not in NOT_COMPARED]
    return {str(p.relative_to(run)): p.read_bytes() for p in paths if p.name not in ("timings.jsonl", ".lock")}


def test_a_whole_run_leaves_sessions_pairs_adapters_and_metrics(undisturbed):
    rows = [json.loads(line) for line in (undisturbed / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["version"]) for row in rows] == [(0, "base"), (1, "it1")]
    for version in ("base", "it1"):
        sessions = read_sessions(undisturbed / version / "simulated" / "sessions.jsonl", neighbours="keep")
        counts = json.loads((undisturbed / version / "simulated" / "counts.json").read_text())
        assert counts["episodes"] == 16 and counts["sessions"] == len(sessions) > 0
        assert (undisturbed / version / "adapter" / "adapter_model.safetensors").is_file()
    weights = {v: (undisturbed / v / "adapter" / "adapter_model.safetensors").read_bytes() for v in ("base", "it1")}
    assert weights["base"] != weights["it1"]
    counts = json.loads((undisturbed / "base" / "preferences" / "counts.json").read_text())
    assert counts["kept"] == len((undisturbed / "base" / "preferences" / "pairs.jsonl").read_text().splitlines()) > 0


def test_no_user_of_one_part_stands_in_another(undisturbed):
    users = {
        part: {s.user_id for s in read_sessions(undisturbed / "data" / f"{part}.jsonl.gz", neighbours="keep")}
        for part in ("sft", "adversarial", "evaluation")
    }
    assert all(users.values())
    assert sum(map(len, users.values())) == len(set.union(*users.values()))
    for version in ("base", "it1"):
        for session in read_sessions(undisturbed / version / "simulated" / "sessions.jsonl", neighbours="keep"):
            assert session.user_id in users[session.model_extra["part"]]
    pairs = (undisturbed / "base" / "preferences" / "pairs.jsonl").read_text().splitlines()
    context_of = {json.loads(line)["session_id"].rsplit("#", 1)[0] for line in pairs}
    trained_on = {s.session_id for s in read_sessions(undisturbed / "data" / "adversarial.jsonl.gz", neighbours="keep")}
    assert context_of <= trained_on


def test_a_run_killed_inside_every_phase_ends_with_the_files_of_an_undisturbed_one(
    undisturbed, where, config, start_driver, still_running
):
    run, killed = where / "run", []
    for phase, inside in INSIDE.items():
        driver = start_driver(config)
        driver.wait_for(f"{phase}: begins")
        driver.wait_until(inside(run))
        killed += driver.kill()
        if inside is not at_once:  # the others may be over before the signal comes
            assert not (run / phase).exists()
    last = start_driver(config)
    last.wait()
    assert last.said("base/preferences: there already")
    assert still_running(killed) == []
    ours, theirs = files(run), files(undisturbed)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []
    assert not list(run.rglob("*.partial"))
