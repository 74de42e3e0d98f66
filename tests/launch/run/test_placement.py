"""Which engines stay up during training. A run whose phases do not fit together is in test_submit."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from launch.run.cluster import connection
from launch.run.serving import Serving
from launch.run.settings import load_config

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
    monkeypatch.setattr(connection, "ray", SimpleNamespace(cluster_resources=lambda: {"CPU": cpus, "GPU": gpus}))
    assert Serving(load_config(None, [*ENGINES, *overrides]), "m", tmp_path).keeps_engines is keeps
