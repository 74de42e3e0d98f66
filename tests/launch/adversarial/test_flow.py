"""A whole run on the CPU: undisturbed in this process, and resumed after drivers in their own processes were killed.

Phases whose folders were deleted are remade. All give the same files, byte for byte.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from launch.cli.status import expected_phases, status_of
from launch.run.contents import run_settings
from rlenv.core.progress import read_progress
from rlenv.data.sessions import read_sessions

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.xdist_group("tiny run")]

NOT_COMPARED = ("logs", "training")  # progress with wall times; Ray Train's files


def trained(name: str) -> Callable[[Path], Callable]:
    """Returns a condition: the training has made its first step."""
    return lambda run: (
        lambda _: (run / "logs" / f"{name}.jsonl").exists() and bool((run / "logs" / f"{name}.jsonl").read_text())
    )


def runs(actor: str) -> Callable[[Path], Callable]:
    """Returns a condition: the actor's process is running."""
    return lambda _: lambda driver: driver.has_process(actor)


def at_once(_: Path) -> Callable:
    """Returns a condition that holds as soon as the phase has started."""
    return lambda _: True


INSIDE = {
    "data": at_once,
    "models/small-llama": trained("pretrain"),
    "base/adapter": trained("sft-base"),
    "base/simulated": runs("EngineActor"),
    "base/discriminator": trained("discriminator-base"),
    "base/preferences": runs("load_discriminator"),
    "base/measures": at_once,
    "it1/adapter": trained("dpo-it1"),
}
"""One phase of each kind, and a condition that shows from outside that its work is in progress."""

PHASES = [*INSIDE, "it1/simulated", "it1/discriminator", "it1/measures"]
"""All phases of the run, in order."""


BEFORE = ("base/simulated", "base/discriminator", "base/measures", "it1/adapter")
BETWEEN = ("data", "base/adapter", "base/preferences")
"""One phase of each kind that reads others' files, in two parts; each has finished phases before and after it."""


@pytest.fixture(scope="module")
def undisturbed(tiny_run, tmp_path_factory) -> Path:
    """A copy of the undisturbed run."""
    assert made(tiny_run.root) == PHASES
    return Path(shutil.copytree(tiny_run.root, tmp_path_factory.mktemp("flow") / "undisturbed"))


@pytest.fixture
def empty_directory(tiny_run, undisturbed) -> Iterator[Path]:
    """The run's directory, empty during the test. The path is kept because a run's files contain it."""
    aside = tiny_run.root.rename(tiny_run.root.with_name("aside"))
    yield tiny_run.root
    shutil.rmtree(tiny_run.root, ignore_errors=True)
    aside.rename(tiny_run.root)


def made(run: Path) -> list[str]:
    """Returns the phases that were made, in order, those that were made again too."""
    return [json.loads(line)["phase"] for line in (run / "timings.jsonl").read_text().splitlines()]


def files(run: Path) -> dict[str, bytes]:
    """Returns the files of a run that do not depend on when it was run."""
    paths = [p for p in sorted(run.rglob("*")) if p.is_file() and p.relative_to(run).parts[0] not in NOT_COMPARED]
    return {str(p.relative_to(run)): p.read_bytes() for p in paths if p.name not in ("timings.jsonl", ".lock")}


def compare(run: Path, undisturbed: Path) -> None:
    """Fails where anything but wall times differs."""
    actual, expected = files(run), files(undisturbed)
    assert actual.keys() == expected.keys()
    assert [name for name in actual if actual[name] != expected[name]] == []
    assert not list(run.rglob("*.partial"))


def test_a_whole_run_writes_sessions_pairs_adapters_and_metrics(undisturbed):
    rows = [json.loads(line) for line in (undisturbed / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["version"]) for row in rows] == [(0, "base"), (1, "it1")]
    for version in ("base", "it1"):
        sessions = read_sessions(undisturbed / version / "simulated" / "sessions.jsonl", neighbours="keep")
        counts = json.loads((undisturbed / version / "simulated" / "counts.json").read_text())
        assert counts["episodes"] == 16 and counts["sessions"] == len(sessions) > 0
        assert (undisturbed / version / "adapter" / "adapter_model.safetensors").is_file()
    weights = {v: (undisturbed / v / "adapter" / "adapter_model.safetensors").read_bytes() for v in ("base", "it1")}
    assert weights["base"] != weights["it1"]
    swaps = [json.loads(line) for line in (undisturbed / "logs" / "swaps" / "simulator.jsonl").read_text().splitlines()]
    assert list(dict.fromkeys(swap["adapter"] for swap in swaps)) == ["base", "it1"]
    assert all(swap["places"] == 12 and swap["gap_mean"] <= swap["tolerance"] for swap in swaps)
    counts = json.loads((undisturbed / "base" / "preferences" / "counts.json").read_text())
    assert counts["kept"] == len((undisturbed / "base" / "preferences" / "pairs.jsonl").read_text().splitlines()) > 0


def test_the_status_of_a_finished_run_knows_the_phases_that_it_made(undisturbed):
    status = status_of(undisturbed)
    assert (status.driver.state, status.remaining) == ("finished", ())
    assert list(status.finished) == PHASES == expected_phases(run_settings(undisturbed))
    for name in ("conversations-base", "preferences-base", "conversations-it1"):
        last = read_progress(undisturbed / "logs" / f"{name}.jsonl")[-1]
        assert last["step"] == last["total"]


def test_no_user_is_in_two_parts(undisturbed):
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


def test_phases_are_remade_from_the_files_of_the_others_after_a_driver_was_killed(
    undisturbed, tiny_run, empty_directory, start_driver, still_running
):
    """A driver remakes some phases and is killed inside a training; this process ends the run, and remakes others."""
    from launch.adversarial.algorithm import run_adversarial
    from launch.run.settings import load_config

    shutil.copytree(undisturbed, empty_directory)
    shutil.rmtree(empty_directory / "logs")
    for phase in BEFORE:
        shutil.rmtree(empty_directory / phase)
    phase, driver = "base/discriminator", start_driver(tiny_run.config)
    driver.wait_for(f"{phase}: started")
    driver.wait_until(INSIDE[phase](empty_directory))
    killed = driver.kill()
    assert driver.started() == ["base/simulated", phase] and not (empty_directory / phase).exists()
    for deleted in BETWEEN:
        shutil.rmtree(empty_directory / deleted)
    before = made(empty_directory)
    run_adversarial(load_config(tiny_run.config))
    remade = made(empty_directory)[len(before) :]
    assert remade == ["data", "base/adapter", phase, "base/preferences", "base/measures", "it1/adapter"]
    compare(empty_directory, undisturbed)
    assert still_running(killed) == []  # last, because Ray's processes take a while to notice


@pytest.mark.exhaustive
def test_a_run_killed_inside_every_phase_ends_with_the_files_of_an_undisturbed_one(
    undisturbed, tiny_run, empty_directory, start_driver, still_running
):
    killed = []
    for phase, inside in INSIDE.items():
        driver = start_driver(tiny_run.config)
        driver.wait_for(f"{phase}: started")
        driver.wait_until(inside(empty_directory))
        killed += driver.kill()
        if inside is not at_once:  # the other phases may end before the signal arrives
            assert not (empty_directory / phase).exists()
    last = start_driver(tiny_run.config)
    last.wait()
    assert last.logged("base/preferences: already done")
    assert still_running(killed) == []
    compare(empty_directory, undisturbed)
