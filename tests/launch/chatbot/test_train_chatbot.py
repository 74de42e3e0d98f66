"""A chatbot's training as a whole, on the CPU: undisturbed in this process, and as a driver whose processes are killed.

Phases are also remade in this process after their folders were deleted. All give the same files, byte for byte.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from launch.adversarial.phases import read_pairs
from launch.chatbot.config import load_chatbot_config
from launch.chatbot.driver import train_chatbot
from launch.chatbot.pairs import export_pairs
from launch.chatbot.records import RoundRecords, read_episodes
from launch.cli.status import expected_phases, status_of
from launch.run.contents import run_settings
from launch.tracking.tracker import read_metrics
from rlenv.core.adapters import folder_digest
from rlenv.core.errors import ConfigError
from rlenv.data.sessions import read_sessions
from rlenv.evaluation.chatbot_rl.records import CurvePoint

pytestmark = [pytest.mark.slow, pytest.mark.ray]

SETTINGS: dict[str, Any] = {
    "ensemble": {"base": 1, "it1": 1},
    "held_out": ["it2", "people"],
    "users": {"people": {"kind": "population"}},
    "rewards": {"tests.launch.toy_reward:small_letters": 1.0},
    "chatbot": {"engine": "chatbot", "adapter": "trained", "sampling": {"max_tokens": 12}},
    "rl": {
        "num_rounds": 4,
        "num_groups": 2,
        "group_size": 4,
        "batch_size": 4,
        "gradient_accumulation": 1,
        "learning_rate": 3e-3,
        "credit": {"level": "turn", "estimator": "rloo", "scale": "none"},
        "save_every": 1,
        "dtype": "float32",
    },
    "evaluation": {"num_contexts": 2, "every": 2, "every_contexts": 2, "held_out_judge": {"judge": "detectors"}},
    "settings": {
        "env": {"max_turns": 2},
        "simulator": {"sampling": {"max_tokens": 12}},
        "chatbot_sft": {"epochs": 1, "batch_size": 2, "learning_rate": 1e-3, "dtype": "float32", "save_every": 1},
    },
}
TIMED_FOLDERS = ("logs", "training")
"""Folders with wall times."""
TIMED_FILES = (
    "seconds.json",
    "timings.jsonl",
    ".lock",
    "metrics.jsonl",
    "curve.jsonl",
    "learning_cost.png",
    "report.html",
)
"""Files with wall times; their other contents are compared separately, or made from files that are compared."""


@pytest.fixture(scope="module")
def where(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("chatbot")


@pytest.fixture(scope="module")
def write(where, finished_run, tiny_llama) -> Callable[..., Path]:
    """Returns a writer of configurations: the settings with changes, as a YAML file."""
    chatbot = {
        "model": str(tiny_llama), "backend": "transformers", "dtype": "float32", "num_cpus": 0.5, "threads": 1,
        "max_model_len": 1024, "max_num_seqs": 32,
    }  # fmt: skip

    def write(name: str, **changes: Any) -> Path:
        settings = {**SETTINGS, "run": str(finished_run), "out_dir": str(where / name), **changes}
        own = {"engines": {"chatbot": chatbot}, "backbone": str(tiny_llama)}
        settings["settings"] = {**SETTINGS["settings"], **own}
        path = where / f"{name}.yaml"
        path.write_text(yaml.safe_dump(settings))
        return path

    return write


@pytest.fixture(scope="module")
def config(write) -> Path:
    """A run with both seats on one engine."""
    return write("run", chatbot={**SETTINGS["chatbot"], "engine": "simulator"})


@pytest.fixture(scope="module")
def undisturbed(where, config, local_ray) -> Path:
    """An undisturbed run, moved away so that another run can have the same name."""
    train_chatbot(load_chatbot_config(config))
    return (where / "run").rename(where / "undisturbed")


def started(messages: Sequence[str]) -> list[str]:
    """Returns the phases that were started according to the log, sorted by name."""
    return sorted(message.split(":")[0] for message in messages if message.endswith(": started"))


def files(run: Path) -> dict[str, bytes]:
    """Returns the files of a run that do not depend on time; the names of the rounds' folders include digests."""
    paths = [p for p in sorted(run.rglob("*")) if p.is_file() and not {*TIMED_FOLDERS} & {*p.relative_to(run).parts}]
    paths = [p for p in paths if p.relative_to(run).parts[0] != "rounds" or p.name != "manifest.json"]  # has the times
    found = {str(p.relative_to(run)): p.read_bytes() for p in paths if p.name not in TIMED_FILES}
    rounds = found["report/tables/rounds.csv"].splitlines()
    assert rounds[0].endswith(b",seconds")
    return found | {"report/tables/rounds.csv": b"\n".join(line.rpartition(b",")[0] for line in rounds)}


def curve(run: Path) -> list[dict[str, Any]]:
    """Returns the curve without wall times."""
    points = [json.loads(line) for line in (run / "curve.jsonl").read_text().splitlines()]
    return [{k: v for k, v in point.items() if not k.endswith("_seconds")} for point in points]


def metrics(run: Path) -> list[dict[str, Any]]:
    """Returns the rows of ``metrics.jsonl`` without wall times."""
    return [{k: v for k, v in row.items() if "seconds" not in k} for row in read_metrics(run / "metrics.jsonl")]


def test_a_run_writes_a_chatbot_a_curve_and_evaluation_episodes(undisturbed) -> None:
    phases = [json.loads(line)["phase"] for line in (undisturbed / "timings.jsonl").read_text().splitlines()]
    assert phases == [
        "chatbots/chatbot", "start/measured", "rl1/adapter", "rl1/measured", "start/judged", "rl1/judged",
    ]  # fmt: skip
    status = status_of(undisturbed)
    assert (status.driver.state, status.remaining) == ("finished", ())
    assert list(status.finished) == phases == expected_phases(run_settings(undisturbed))
    weights = [
        (undisturbed / name / "adapter_model.safetensors").read_bytes() for name in ("chatbots/chatbot", "rl1/adapter")
    ]
    assert weights[0] != weights[1]
    points = [CurvePoint.model_validate_json(line) for line in (undisturbed / "curve.jsonl").read_text().splitlines()]
    assert [point.num_updates for point in points] == [0, 2, 4, 6]
    assert [sorted(point.held_out) for point in points] == [["it2", "people"], [], ["it2", "people"], []]
    assert all(point.train.num_conversations == 8 and point.staleness_max == 0 for point in points)
    assert all(0 < point.sampler_gap_max < 1e-3 for point in points if point.sampler_gap_max is not None)
    assert len({point.adapter for point in points}) == 4
    rows = read_metrics(undisturbed / "metrics.jsonl")
    assert [(row["step"], row["version"]) for row in rows] == [(i, "rl1") for i in range(1, 9)]
    assert {"rl/loss", "rl/kl", "seconds/update"} <= set(rows[1])
    more = {"sampler/gap_mean", "tokens/trained", "tokens/sampled", "seconds/rollouts", "training/issue_rate"}
    assert more | {"held_out_people/reward", "rollouts/staleness_max"} <= set(rows[0])


def test_evaluation_episodes_are_pairs_with_users_that_are_not_trained_with(undisturbed, finished_run) -> None:
    for users in ("training", "it2", "people"):
        before, after = (read_episodes(undisturbed / v / "measured" / f"{users}.jsonl.gz") for v in ("start", "rl1"))
        assert [held.key for held in before] == [held.key for held in after] and len(before) == 4
        assert {held.counterpart for held in before} <= ({"base", "it1"} if users == "training" else {users})
        assert all(m.issues is not None for held in before for m in held.messages if m.role == "assistant")
    trained = {
        held.episode.context_id
        for folder in (undisturbed / "rounds").iterdir()
        for held in RoundRecords(undisturbed / "rounds").read_folder(folder)
    }
    assert trained.isdisjoint({held.context_id for held in before})


def test_the_report_has_every_group_of_users_by_both_judges(undisturbed) -> None:
    told = json.loads((undisturbed / "report" / "evaluation.json").read_text())
    groups = [(row["users"]["name"], row["users"]["kind"], row["num_pairs"]) for row in told["paired"]["rows"]]
    kinds = (("training", "training"), ("it2", "held_out"), ("people", "population"))
    assert groups == [(name + by, kind, 4) for by in ("", ", by detectors") for name, kind in kinds]
    assert [alarm["state"] for alarm in told["alarms"]] == ["not judged"] * len(told["alarms"])  # four rounds are few
    page = (undisturbed / "report" / "report.html").read_text()
    assert "trained with" in page and "the true users" in page and page.count("<img") == 4


def test_the_training_conversations_can_be_exported_as_preference_pairs(undisturbed, tmp_path) -> None:
    counts = export_pairs(undisturbed, tmp_path / "pairs.jsonl")
    pairs = read_pairs(tmp_path / "pairs.jsonl")
    assert counts["rounds"] == 4 and counts["kept"] == len(pairs) > 0
    assert all(pair.reward_chosen > pair.reward_rejected and pair.chosen_ids != pair.rejected_ids for pair in pairs)
    said = {
        turn.utterance.token_ids
        for folder in (undisturbed / "rounds").iterdir()
        for held in RoundRecords.read_folder(folder)
        if held.state
        for turn in held.state.turns
    }
    assert {pair.chosen_ids for pair in pairs} | {pair.rejected_ids for pair in pairs} <= said
    with pytest.raises(ConfigError, match="no finished round yet"):
        export_pairs(tmp_path, tmp_path / "none.jsonl")


def trained(name: str) -> Callable[[Path], Callable[..., bool]]:
    """Returns a condition: the training has made its first step."""
    return lambda run: lambda _: bool((run / "logs" / f"{name}.jsonl").exists() and (run / "logs" / f"{name}.jsonl").read_text())  # fmt: skip  # noqa: E501


def rounds(number: int) -> Callable[[Path], Callable[..., bool]]:
    """Returns a condition: so many rounds are collected."""
    return lambda run: lambda _: len([*(run / "rounds").glob("*/seconds.json")]) >= number


def hosted(_: Path) -> Callable[..., bool]:
    """Returns whether the conversations are in progress."""
    return lambda driver: driver.has_process("RolloutHost")


INSIDE = {
    "chatbots/chatbot": trained("sft-chatbot"),
    "start/measured": hosted,
    "rl1/adapter": rounds(3),
    "rl1/measured": hosted,
}


def test_phases_whose_folders_were_deleted_are_remade_from_the_files_of_the_others(
    undisturbed, where, config, caplog
) -> None:
    deleted = ("rl1/adapter", "rl1/measured", "start/measured")  # SFT: launch/adversarial/test_flow.py
    run = Path(shutil.copytree(undisturbed, where / "run"))
    caplog.set_level("INFO")
    for phase in deleted:
        shutil.rmtree(run / phase)
    train_chatbot(load_chatbot_config(config))
    assert started(caplog.messages) == list(deleted)
    compare(run, undisturbed)
    run.rename(where / "remade")


@pytest.mark.exhaustive
def test_each_process_and_the_driver_may_die_during_training(
    undisturbed, where, config, start_driver, still_running
) -> None:
    """The worker resumes from its checkpoint, host and engines are restarted, and a new driver resumes the run."""
    run = where / "run"
    for phase in ("chatbots/chatbot", "start/measured"):
        shutil.copytree(undisturbed / phase, run / phase)
    driver = start_driver(config, "train-chatbot")
    for number, name in ((1, "RayTrainWorker"), (2, "EngineActor"), (3, "RolloutHost")):
        driver.wait_until(rounds(number)(run))
        driver.kill_one(name)
    driver.wait_until(rounds(4)(run))
    killed = driver.kill()
    assert not (run / "rl1/adapter").exists()
    last = start_driver(config, "train-chatbot")
    last.wait()
    assert last.logged("start/measured: already done") and last.logged("rl1/adapter: started")
    assert still_running(killed) == []
    compare(run, undisturbed)
    run.rename(where / "everything")


@pytest.mark.exhaustive
def test_a_run_killed_inside_every_phase_ends_with_the_files_and_the_curve_of_an_undisturbed_one(
    undisturbed, where, config, start_driver, still_running
) -> None:
    run, killed = where / "run", []
    for phase, inside in INSIDE.items():
        driver = start_driver(config, "train-chatbot")
        driver.wait_for(f"{phase}: started")
        driver.wait_until(inside(run))
        killed += driver.kill()
        assert not (run / phase).exists()
    start_driver(config, "train-chatbot").wait()
    assert still_running(killed) == []
    compare(run, undisturbed)
    run.rename(where / "killed")


@pytest.mark.exhaustive
def test_each_process_may_die_during_training(undisturbed, where, config, start_driver) -> None:
    """The worker resumes from its checkpoint; host and engines are restarted."""
    run = where / "run"
    driver = start_driver(config, "train-chatbot")
    for number, name in ((1, "RayTrainWorker"), (2, "EngineActor"), (3, "RolloutHost")):
        driver.wait_until(rounds(number)(run))
        driver.kill_one(name)
    driver.wait()
    compare(run, undisturbed)
    run.rename(where / "disturbed")


@pytest.mark.exhaustive
@pytest.mark.xdist_group("refresh")  # shares no run with the others
def test_the_simulator_is_refreshed_against_the_new_chatbot_and_joins_the_ensemble(
    finished_run, local_ray, where, write, caplog
) -> None:
    """Two rounds, Algorithm 1 against the new chatbot, and two more rounds; then two phases are deleted and remade.

    Both seats are on one engine, and the chatbot starts from a given adapter.
    """
    chatbot = {**SETTINGS["chatbot"], "engine": "simulator", "adapter": str(finished_run / "it2/adapter")}
    config = load_chatbot_config(write("alternated", alternate_every=2, held_out=["people"], chatbot=chatbot))
    run = where / "alternated"
    train_chatbot(config)
    check_alternated(run)
    before = files(run)
    for phase in ("refresh1/base/preferences", "refresh1/it1/measures"):
        shutil.rmtree(run / phase)
    caplog.clear()
    caplog.set_level("INFO")
    train_chatbot(config)
    assert started(caplog.messages) == ["base/preferences", "it1/measures", "refresh1"]
    assert files(run) == before


@pytest.mark.exhaustive
@pytest.mark.xdist_group("killed refresh")
def test_a_run_killed_inside_a_refresh_resumes_there(where, write, start_driver) -> None:
    """Two rounds, Algorithm 1 against the new chatbot, and two more rounds; killed inside Algorithm 1. Two engines."""
    config, run = write("refreshed", alternate_every=2, held_out=["people"]), where / "refreshed"
    driver = start_driver(config, "train-chatbot")
    driver.wait_for("refresh1: started")
    driver.wait_for("base/discriminator: started")
    driver.kill()
    driver = start_driver(config, "train-chatbot")
    driver.wait()
    assert driver.logged("rl1/adapter: already done") and driver.logged("base/simulated: already done")
    check_alternated(run)


def check_alternated(run: Path) -> None:
    """Checks the simulators before and after the refresh, and which version was trained when."""
    simulated = read_sessions(run / "refresh1" / "base" / "simulated" / "sessions.jsonl", neighbours="keep")
    assert {session.chatbot for session in simulated} == {"chatbot"}
    rounds = sorted((run / "rounds").iterdir())
    assert [folder.name[:5] for folder in rounds] == ["00000", "00001", "00002", "00003"]
    users = [{result.episode.counterpart for result in RoundRecords.read_folder(folder)} for folder in rounds]
    assert set().union(*users[:2]) <= {"base", "it1"} and set().union(*users[2:]) <= {"base", "it1", "refresh1"}
    versions = {name: folder_digest(run / name / "adapter") for name in ("rl1", "rl2", "refresh1/base", "refresh1/it1")}
    assert len(set(versions.values())) >= 3
    assert [point["num_updates"] for point in curve(run)] == [0, 2, 4, 6]
    assert [row["version"] for row in read_metrics(run / "metrics.jsonl")] == ["rl1"] * 4 + ["rl2"] * 4


def compare(run: Path, undisturbed: Path) -> None:
    """Fails where anything but wall times differs."""
    actual, expected = files(run), files(undisturbed)
    assert actual.keys() == expected.keys()
    assert [name for name in actual if actual[name] != expected[name]] == []
    assert curve(run) == curve(undisturbed)
    assert metrics(run) == metrics(undisturbed)
    assert not [p for p in run.rglob("*.partial") if "training" not in p.parts]
