"""Metrics: rows of numbers in metrics.jsonl, and the same rows in W&B's offline files."""

from __future__ import annotations

import json
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from launch.tracking import weights_and_biases
from launch.tracking.config import TrackingConfig
from launch.tracking.tensorboard import TensorBoard
from launch.tracking.tracker import Tracker, log_report, read_metrics
from launch.tracking.weights_and_biases import wandb_mode
from rlenv.core.errors import ConfigError
from rlenv.core.progress import Progress
from rlenv.core.types import Message, Session
from tests.local_endpoint import serve

ROWS = [
    (0, "base", {"disc/accuracy": 0.75, "collect/sessions": 12}),
    (1, "it1", {"disc/accuracy": 0.5, "sft/loss": 2.25}),
]
BLOCK = 32768


def wandb_records(path: Path) -> Iterator[object]:
    """Yields the records of a ``.wandb`` file: a LevelDB log of protocol buffers behind a 7-byte header."""
    from wandb.proto import wandb_internal_pb2

    data, position, whole = path.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while position + 7 <= len(data):
        if BLOCK - position % BLOCK < 7:
            position += BLOCK - position % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        whole += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # full, or last of several
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            whole = b""
            yield record


def wandb_history(folder: Path) -> list[dict[str, float]]:
    """Returns the rows that W&B's offline files of a run directory hold, in order."""
    rows = []
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        for record in wandb_records(path):
            if record.WhichOneof("record_type") == "history":
                rows.append(json_items(record.history))
    return rows


def json_items(history: Any) -> dict[str, float]:
    """Returns the numbers of a history record."""
    return {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in history.item}


def log_all(folder: Path, wandb: bool) -> None:
    tracker = Tracker(folder, TrackingConfig(wandb=wandb), "a/run", {"seed": 0})
    for step, version, metrics in ROWS:
        tracker.log(step, version, metrics)
    tracker.close()


def test_rows_are_kept_in_order_with_sorted_numbers(tmp_path):
    log_all(tmp_path, wandb=False)
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": s, "version": v, **m} for s, v, m in ROWS]
    assert (tmp_path / "metrics.jsonl").read_text().splitlines()[0] == (
        '{"step": 0, "version": "base", "collect/sessions": 12, "disc/accuracy": 0.75}'
    )


def test_a_resumed_run_leaves_the_same_file(tmp_path):
    log_all(tmp_path, wandb=False)
    once = (tmp_path / "metrics.jsonl").read_bytes()
    log_all(tmp_path, wandb=False)
    assert (tmp_path / "metrics.jsonl").read_bytes() == once


def test_values_that_are_not_finite_are_left_out_and_values_that_are_not_numbers_are_refused(tmp_path):
    tracker = Tracker(tmp_path, TrackingConfig(), "r", {})
    tracker.log(0, "base", {"a/x": float("nan"), "a/y": None, "a/z": float("inf"), "a/n": 1})
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 0, "version": "base", "a/n": 1}]
    for wrong in ("a message", ["a message"], {"text": 1}):
        with pytest.raises(ConfigError, match="a/text") as error:
            tracker.log(1, "it1", {"a/text": wrong, "a/n": 2})
        assert "message" not in str(error.value)
    assert len(read_metrics(tmp_path / "metrics.jsonl")) == 1


@pytest.mark.parametrize(
    ("variables", "mode"),
    [
        ({}, "offline"),
        ({"WANDB_API_KEY": "k" * 40}, "online"),
        ({"NETRC": "machine api.wandb.ai login user password abc"}, "online"),
        ({"NETRC": "machine api.wandb.ai login user password abc", "WANDB_BASE_URL": "https://own.org"}, "offline"),
        ({"NETRC": "machine own.org login user password abc", "WANDB_BASE_URL": "https://own.org"}, "online"),
        ({"NETRC": "this is no netrc"}, "offline"),
        ({"WANDB_MODE": "offline", "WANDB_API_KEY": "k" * 40}, "offline"),
        ({"WANDB_MODE": "dryrun", "WANDB_API_KEY": "k" * 40}, "offline"),
        ({"WANDB_MODE": "disabled", "WANDB_API_KEY": "k" * 40}, "disabled"),
        ({"WANDB_MODE": "online"}, "online"),
    ],
)
def test_wandbs_mode_is_that_of_its_variable_else_online_where_there_is_a_key(variables, mode, tmp_path, monkeypatch):
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    keys = tmp_path / "netrc"
    keys.write_text(variables.get("NETRC", ""))
    for name, value in (variables | {"NETRC": str(keys)}).items():
        monkeypatch.setenv(name, value)
    assert wandb_mode() == mode


def test_an_unknown_mode_of_wandb_is_refused_with_the_known_ones(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offlin")
    with pytest.raises(ConfigError, match=r"WANDB_MODE is 'offlin'; there are .*did you mean 'offline'"):
        Tracker(tmp_path, TrackingConfig(wandb=True), "r", {})
    log_all(tmp_path, wandb=False)  # which does not ask


def test_nothing_of_wandb_is_written_where_it_is_disabled(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "disabled")
    log_all(tmp_path, wandb=True)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.slow
def test_a_server_that_refuses_the_key_leaves_offline_files_and_a_warning(tmp_path, monkeypatch, caplog):
    with serve(lambda body: (401, {"message": "no"})) as server:
        monkeypatch.setenv("WANDB_BASE_URL", server.base_url.removesuffix("/v1"))
        monkeypatch.setenv("WANDB_API_KEY", "0123456789" * 4)
        monkeypatch.setenv("WANDB_MODE", "online")
        monkeypatch.setenv("WANDB_INIT_TIMEOUT", "5")
        log_all(tmp_path, wandb=True)
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb")) and len(read_metrics(tmp_path / "metrics.jsonl")) == 2
    assert "refuses the key" in caplog.text and "0123456789" not in caplog.text


@pytest.mark.slow
def test_wandb_offline_files_have_each_row_once_even_after_a_resume(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    tracker = Tracker(tmp_path, TrackingConfig(wandb=True), "a/run", {"seed": 0})
    tracker.log(*ROWS[0])
    tracker.close()
    time.sleep(1.1)  # W&B names a run's folder by the second
    log_all(tmp_path, wandb=True)  # the same command again: both rows are measured or read
    deadline = time.monotonic() + 30
    while len(rows := wandb_history(tmp_path)) < 2 and time.monotonic() < deadline:
        time.sleep(0.2)  # W&B's own process may write a little later
    assert [row["_step"] for row in rows] == [0, 1], sorted(p.name for p in tmp_path.glob("wandb/*/*.wandb"))
    for row, (_, _, metrics) in zip(rows, ROWS, strict=True):
        assert row.pop("iteration") == row["_step"]
        assert {k: v for k, v in row.items() if not k.startswith("_")} == metrics


def test_a_row_that_has_got_more_figures_goes_to_wandb_again_at_its_place_on_the_axis(tmp_path, monkeypatch):
    """As that of the last version of a finished run that goes on: its preferences are made then."""
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    step, version, more = *ROWS[0][:2], {**ROWS[0][2], "prefs/kept": 3.0}
    for rows in ([ROWS[0], ROWS[1]], [(step, version, more), ROWS[1]]):
        with Tracker(tmp_path, TrackingConfig(wandb=True), "a/run", {"seed": 0}) as tracker:
            for row in rows:
                tracker.log(*row)
        time.sleep(1.1)  # W&B names a run's folder by the second
    deadline = time.monotonic() + 30
    while len(rows := wandb_history(tmp_path)) < 3 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert [row["iteration"] for row in rows] == [0, 1, 0]
    assert {k: v for k, v in rows[2].items() if not k.startswith("_") and k != "iteration"} == more


def wandb_runs(folder: Path) -> dict[str, list[Any]]:
    """Returns the records of W&B's offline files by job type, once each file has ended."""
    runs: dict[str, list[Any]] = {}
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        records = list(wandb_records(path))
        begun = [r.run for r in records if r.WhichOneof("record_type") == "run"]
        if begun and any(r.WhichOneof("record_type") == "exit" for r in records):
            runs.setdefault(begun[0].job_type, []).append((begun[0], records))
    return runs


@pytest.mark.slow
def test_wandb_has_one_group_a_job_type_for_each_phase_and_adapters_by_reference(tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_RUN_GROUP"):
        monkeypatch.delenv(name, raising=False)
    adapter = tmp_path / "base" / "adapter"
    adapter.mkdir(parents=True)
    (adapter / "adapter_model.safetensors").write_bytes(b"weights")
    (tmp_path / "logs").mkdir()
    for step, loss in ((1, 3.0), (2, 2.5), (1, 2.9), (2, 2.4)):  # an interrupted attempt, and the one after it
        Progress(str(tmp_path / "logs" / "sft-base.jsonl"), "sft").write(step, 2, loss=loss)
    with Tracker(tmp_path, TrackingConfig(wandb=True), "a/run", {"seed": 0}) as tracker:
        tracker.log(0, "base", {"disc/accuracy": 0.75}, {"adapter": adapter, "report": tmp_path / "none"})
        tracker.log_phases()
        tracker.log_phases()  # nothing is sent twice
    deadline = time.monotonic() + 30
    while len(runs := wandb_runs(tmp_path)) < 2 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert runs.keys() == {"run", "sft"} and all(len(each) == 1 for each in runs.values())
    (main, records), (sft, curve) = runs["run"][0], runs["sft"][0]
    assert main.run_group == sft.run_group and main.run_group.startswith("a/run-")
    assert sft.display_name == "a/run sft base"
    rows = [json_items(r.history) for r in curve if r.WhichOneof("record_type") == "history"]
    assert [(row["sft/step"], row["sft/loss"]) for row in rows] == [(1, 2.9), (2, 2.4)]
    metrics = [r.metric for r in records if r.WhichOneof("record_type") == "metric"]
    axes = {metric.name or metric.glob_name: metric.step_metric for metric in metrics}
    assert axes["*"] == "iteration"
    logged = [r.request.log_artifact.artifact for r in records if r.WhichOneof("record_type") == "request"]
    logged += [r.artifact for r in records if r.WhichOneof("record_type") == "artifact"]
    (artifact,) = [one for one in logged if one.type == "adapter"]
    (entry,) = artifact.manifest.contents
    assert entry.ref.startswith("file://") and entry.ref.endswith("adapter_model.safetensors")
    assert entry.size == 7 and not entry.local_path


class BrokenWandb:
    """A W&B whose ``init``, or whose runs, fail."""

    Settings = dict

    def __init__(self, fails_at: str) -> None:
        self.fails_at, self.modes = fails_at, []

    def init(self, **arguments: object) -> BrokenWandb:
        self.modes.append(arguments["mode"])
        if self.fails_at == "init" or (self.fails_at == "online" and arguments["mode"] == "online"):
            raise RuntimeError("a message of the network's")
        return self

    url = None

    def __getattr__(self, name: str):
        def call(*_: object, **__: object) -> None:
            if name == self.fails_at:
                raise RuntimeError("a message of the network's")
            if f"hangs in {name}" == self.fails_at:
                time.sleep(5)

        return call


@pytest.mark.parametrize("fails_at", ["init", "online", "log", "define_metric", "finish", "hangs in log"])
def test_a_wandb_that_fails_never_stops_a_run(fails_at, tmp_path, monkeypatch, caplog):
    broken = BrokenWandb(fails_at)
    monkeypatch.setitem(sys.modules, "wandb", broken)
    monkeypatch.setenv("WANDB_API_KEY", "k")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setattr(weights_and_biases, "PATIENCE_S", 0.2)
    log_all(tmp_path, wandb=True)
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [0, 1]
    assert "Weights & Biases" in caplog.text and "network's" not in caplog.text
    state = json.loads((tmp_path / "wandb.json").read_text())
    sent = [[step, version, len(metrics)] for step, version, metrics in ROWS]
    assert state["rows"] == (sent if fails_at in ("online", "finish") else [])
    if fails_at == "online":
        assert broken.modes == ["online", "offline"]


@pytest.mark.slow
def test_two_runs_with_one_name_are_separate_in_wandb(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    ids = set()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        log_all(tmp_path / name, wandb=True)
        ids |= {path.stem for path in tmp_path.glob(f"{name}/wandb/offline-run-*/*.wandb")}
    assert len(ids) == 2


# ------------------------------------------------------------------------------------------------ transcripts

SAID = "nobody else may read this"
TALK = Session(
    session_id="s1",
    chatbot="listener",
    messages=(Message(role="user", content=SAID), Message(role="assistant", content="I see.")),
)


def written(folder: Path) -> bytes:
    """Returns all that a folder holds."""
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


@pytest.mark.slow
@pytest.mark.parametrize("transcripts", [0, 1])
def test_text_goes_to_wandb_only_where_transcripts_are_switched_on_and_never_to_tensorboard(
    transcripts, tmp_path, monkeypatch
):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_RUN_GROUP"):
        monkeypatch.delenv(name, raising=False)
    config = TrackingConfig(wandb=True, tensorboard=True, transcripts=transcripts)
    with Tracker(tmp_path, config, "a/run", {}) as tracker:
        tracker.log(0, "base", {"a/x": 1.0}, transcripts=[TALK, TALK.model_copy(update={"session_id": "s2"})])
    tables = list(tmp_path.glob("wandb/offline-run-*/files/media/table/*.json"))
    assert len(tables) == transcripts
    if tables:
        table = json.loads(tables[0].read_text())
        assert table["columns"] == ["session", "chatbot", "message", "role", "text"]
        assert table["data"] == [["s1", "listener", 1, "user", SAID], ["s1", "listener", 2, "assistant", "I see."]]
    assert (SAID.encode() in written(tmp_path / "wandb")) == bool(transcripts)
    assert SAID.encode() not in written(tmp_path / "tensorboard") + (tmp_path / "metrics.jsonl").read_bytes()


@pytest.mark.slow
def test_a_resumed_run_goes_on_in_the_same_wandb_run_and_its_report_is_an_artifact_of_it(tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_RUN_GROUP"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "report.html").write_text("numbers")
    for rows in (ROWS[:1], ROWS):  # stopped after the first row, and resumed
        with Tracker(tmp_path, TrackingConfig(wandb=True), "a/run", {"seed": 0}) as tracker:
            for step, version, metrics in rows:
                tracker.log(step, version, metrics)
    log_report(tmp_path, {"name": "a/run", "tracking": {"wandb": True}}, tmp_path / "report")
    deadline = time.monotonic() + 30
    while len(runs := wandb_runs(tmp_path).get("run", [])) < 3 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert len({run.run_id for run, _ in runs}) == 1 and len({run.run_group for run, _ in runs}) == 1
    history = [row["iteration"] for row in wandb_history(tmp_path)]
    assert history == [0, 1]  # each row once, though the resumed run logged both
    records = [record for _, each in runs for record in each]
    logged = [r.request.log_artifact.artifact for r in records if r.WhichOneof("record_type") == "request"]
    logged += [r.artifact for r in records if r.WhichOneof("record_type") == "artifact"]
    (report,) = [one for one in logged if one.type == "report"]
    assert [entry.ref.rsplit("/", 1)[1] for entry in report.manifest.contents] == ["report.html"]


def test_an_evaluation_of_a_run_without_wandb_sends_nothing(tmp_path):
    log_report(tmp_path, {"name": "r", "tracking": {"wandb": True}}, tmp_path)  # the run never reached W&B
    log_report(tmp_path, {"name": "r"}, tmp_path)
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------ TensorBoard


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Returns the points of each curve in TensorBoard's event files: a length, a check, a message, a check ..."""
    from tensorboardX.proto.event_pb2 import Event

    found: dict[str, list[tuple[int, float]]] = {}
    for path in sorted(folder.rglob("events.*")):
        data, position = path.read_bytes(), 0
        while position < len(data):
            (length,) = struct.unpack("<Q", data[position : position + 8])
            event = Event.FromString(data[position + 12 : position + 12 + length])
            position += 16 + length
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def test_tensorboard_has_each_row_and_each_phases_curve_once_after_a_resumption(tmp_path):
    (tmp_path / "logs").mkdir()
    for step, loss in ((1, 3.0), (2, 2.5), (1, 2.75), (2, 2.25)):  # an interrupted attempt, and the one after it
        Progress(str(tmp_path / "logs" / "sft-base.jsonl"), "sft").write(step, 2, loss=loss)
    for rows in (ROWS[:1], ROWS):
        with Tracker(tmp_path, TrackingConfig(tensorboard=True), "r", {}) as tracker:
            for step, version, metrics in rows:
                tracker.log(step, version, metrics)
                tracker.log_phases()
    curves = scalars(tmp_path / "tensorboard")
    assert curves["disc/accuracy"] == [(0, 0.75), (1, 0.5)] and curves["collect/sessions"] == [(0, 12.0)]
    assert curves["sft/loss"] == [(1, 2.25), (1, 2.75), (2, 2.25)]  # of the row of it1, and the phase's own
    assert {path.name for path in (tmp_path / "tensorboard").iterdir()} == {"run", "sft-base"}


def test_a_tensorboard_that_fails_never_stops_a_run(tmp_path, caplog):
    (tmp_path / "tensorboard").write_text("a file where the folder should be")
    with Tracker(tmp_path, TrackingConfig(tensorboard=True), "r", {}) as tracker:
        tracker.log(0, "base", {"a/x": 1})
    assert "TensorBoard failed" in caplog.text
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [0]


def test_a_tensorboard_that_fails_at_a_phases_curve_never_stops_a_run(tmp_path, caplog):
    (tmp_path / "logs").mkdir()
    phase = tmp_path / "logs" / "sft-base.jsonl"
    Progress(str(phase), "sft").write(1, 1, loss=0.5)
    sink = TensorBoard(tmp_path)
    (tmp_path / "tensorboard" / "sft-base").write_text("a file where the folder should be")
    sink.log_phase(phase)
    sink.log(0, "base", {"x": 1.0}, {}, [])
    sink.close()
    assert caplog.text.count("TensorBoard failed") == 1
