"""conf/paper.yaml's phases on logical GPUs, with stand-in engines and workers: each is placed, none waits for another.

On one node of 8 GPUs, and on several nodes of which one is lost in the middle. The scripts run in processes of their
own, because Ray can be started once in a process with these resources.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.ray]
ROOT = Path(__file__).resolve().parents[3]

PHASES = '''
import asyncio, json, sys, time
from functools import partial
from pathlib import Path

import ray
from ray.util.placement_group import placement_group, remove_placement_group

from actors.supervision import Supervised, start_all
from launch.run.serving import Serving
from launch.run.settings import load_config
from rlenv.core.types import Sampling

class Scorer:
    """Stands for a served discriminator."""

model, logs = sys.argv[1:]
overrides = [f"engines.{name}.{setting}" for name in ("simulator", "chatbot")
             for setting in ("backend=scripted", f"model={model}", "tensor_parallel_size=1")]
config = load_config(Path("conf/paper.yaml"), overrides)
ray.init(address="local", num_cpus=64, num_gpus=8, include_dashboard=False, logging_level="ERROR",
         object_store_memory=100 * 2**20)
serving = Serving(config, model, Path(logs))
waited, free = {}, {}

def train(phase):
    """Stands for Ray Train: all workers of a training get their resources at once, or it waits."""
    began = time.monotonic()
    serving.make_room()
    bundle = {"CPU": config.train.num_cpus, "GPU": config.train.num_gpus}
    group = placement_group([bundle] * config.train.num_workers)
    ray.get(group.ready(), timeout=60)
    waited[phase], free[phase] = time.monotonic() - began, ray.available_resources().get("GPU", 0)
    remove_placement_group(group)

async def talk(pools):
    sampling = Sampling(max_tokens=4, seed=1)
    return await asyncio.gather(*[pool.generate([1, 2, 3], sampling, None, str(i))
                                  for pool in pools.values() for i in range(8)])

train("sft")
began = time.monotonic()
with serving.engines("chatbot", "simulator") as pools:
    assert len(asyncio.run(talk(pools))) == 16
    waited["conversations"], free["conversations"] = time.monotonic() - began, ray.available_resources().get("GPU", 0)
train("discriminators")
began = time.monotonic()
with serving.engines("simulator") as pools:
    scoring = [Supervised(f"scorer {i}", Scorer, log=f"{logs}/scorer-{i}.log", max_restarts=0, startup_timeout_s=60,
                          num_cpus=config.scoring.num_cpus, num_gpus=config.scoring.num_gpus)
               for i in range(config.scoring.replicas)]
    start_all(scoring)
    asyncio.run(talk(pools))
    waited["preferences"], free["preferences"] = time.monotonic() - began, ray.available_resources().get("GPU", 0)
    for one in scoring:
        one.close()
train("dpo")
serving.close()
print(json.dumps([waited, free]))
ray.shutdown()
'''

LOST = '''
import asyncio, json, sys, time
import ray
from ray.cluster_utils import Cluster

from actors.engines.config import EngineConfig
from actors.pool import EnginePool
from rlenv.core.types import Sampling

model, logs = sys.argv[1:]
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 0,
                  "object_store_memory": 80 * 2**20, "include_dashboard": False})
nodes = [cluster.add_node(num_cpus=1, num_gpus=4, object_store_memory=80 * 2**20) for _ in range(3)]
ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
cluster.wait_for_nodes()
config = EngineConfig(model=model, backend="scripted", replicas=2, num_cpus=1, num_gpus=4, log_dir=logs, max_restarts=3)

def asked(pool, count=12):
    async def all_of_them():
        replies = await asyncio.gather(*[pool.generate([5, 6, i], Sampling(max_tokens=6, seed=i), None, str(i))
                                         for i in range(count)])
        return [reply.token_ids for reply in replies]
    return asyncio.run(all_of_them())

def where():
    """The nodes whose GPUs are taken."""
    from ray._private.state import available_resources_per_node
    return [n for n, free in available_resources_per_node().items() if not free.get("GPU")]

with EnginePool(config) as pool:
    before = asked(pool)
    time.sleep(1)
    taken = set(where())
    lost = next(node for node in nodes if node.node_id in taken)
    cluster.remove_node(lost, allow_graceful=False)
    while sum(node["Alive"] for node in ray.nodes()) > 3:
        time.sleep(0.2)
    after = asked(pool)
    alive = sum(node["Alive"] for node in ray.nodes())
    print(json.dumps([before == after, pool.stats().restarts, alive]))
ray.shutdown()
cluster.shutdown()
'''


def ran(script: str, *arguments: object) -> list:
    """Returns the last list that a script prints, as JSON; Ray prints lines of its own."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "RAY_raylet_start_wait_time_s": "300"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(next(line for line in done.stdout.splitlines()[::-1] if line.startswith("[")))


def test_each_phase_of_the_papers_configuration_finds_its_gpus_and_none_waits_for_an_idle_engine(tiny_llama, tmp_path):
    waited, free = ran(PHASES, tiny_llama, tmp_path)
    assert waited.keys() == free.keys() == {"sft", "conversations", "discriminators", "preferences", "dpo"}
    assert set(free.values()) == {0}  # each phase has all eight, so what the one before held is given back
    assert all(waited[phase] < 60 for phase in ("sft", "discriminators", "dpo"))


@pytest.mark.exhaustive  # a lost process: actors/test_pool.py
def test_an_engine_whose_node_is_lost_starts_again_on_another_and_gives_the_same_tokens(tiny_llama, tmp_path):
    same, restarts, alive = ran(LOST, tiny_llama, tmp_path)
    assert same and restarts == 1 and alive == 3  # the head, and two of three nodes
