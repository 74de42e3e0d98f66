"""On eight logical GPUs and CPUs, no phase waits for resources that another phase holds."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from launch.run import serving
from launch.run.serving import Serving
from launch.run.settings import load_config
from rlenv.data.sessions import read_sessions

ENGINES = [
    "engines.simulator.num_gpus=5", "engines.simulator.num_cpus=5", "engines.simulator.backend=scripted",
    "engines.chatbot.model=m", "engines.chatbot.num_gpus=3", "engines.chatbot.num_cpus=1",
]  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "cpus", "gpus", "keeps"),
    [
        ([], 8, 8, True),  # 6 CPUs of engines and 1 of training
        (["train.num_cpus=3"], 8, 8, False),
        (["train.num_workers=3"], 8, 8, False),
        (["scoring.num_cpus=3"], 8, 8, False),
        (["scoring.num_cpus=3"], 9, 8, True),
        (["train.num_gpus=1"], 8, 8, False),
        (["train.num_gpus=1"], 8, 9, True),
        (["train.num_gpus=1", "keep_engines=true"], 8, 8, True),
        (["keep_engines=false"], 99, 99, False),
    ],
)
def test_engines_stay_up_during_training_only_where_there_is_room_for_both(
    overrides, cpus, gpus, keeps, monkeypatch, tmp_path
):
    monkeypatch.setattr(serving, "ray", SimpleNamespace(cluster_resources=lambda: {"CPU": cpus, "GPU": gpus}))
    assert Serving(load_config(None, [*ENGINES, *overrides]), "m", tmp_path).keeps_engines is keeps


@pytest.mark.slow
@pytest.mark.ray
def test_a_run_whose_phases_do_not_fit_together_completes_because_each_releases_its_resources(
    tmp_path, tiny_llama, finished_run, write_config, start_driver
):
    scripted = {"backend": "scripted", "max_model_len": 1024}
    config = write_config(
        out_dir=str(tmp_path / "run"),
        backbone=str(tiny_llama),
        simulator={"model": str(tiny_llama), "adapter": str(finished_run / "base/adapter")},
        engines={
            "simulator": {**scripted, "num_gpus": 5, "num_cpus": 5},
            "chatbot": {**scripted, "num_gpus": 3, "num_cpus": 1, "model": str(tiny_llama), "seed": 7, "max_loras": 0},
        },
        chatbots={"llm": {"kind": "engine", "engine": "chatbot", "sampling": {"max_tokens": 20}}},
        discriminator={"max_tokens": 1024},
        train={"num_cpus": 4},  # 6 CPUs of engines and 4 of training: more than 8
        scoring={"num_cpus": 3},  # fits beside the simulator alone
        ray={"num_cpus": 8, "num_gpus": 8},
    )
    start_driver(config).wait()
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["version"] for row in rows] == ["base", "it1"]
    sessions = read_sessions(tmp_path / "run" / "it1" / "simulated" / "sessions.jsonl", neighbours="keep")
    assert {s.chatbot for s in sessions} == {"llm"}
