"""Ray's metrics, read back where Prometheus reads them: the endpoint of a small local Ray."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from actors.metrics import Conversations
from rlenv.core.aio import run
from rlenv.env.collect import Collected, Episode

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = """
import asyncio, json, socket, sys, time, urllib.request
import ray
from actors.engines.config import EngineConfig
from actors.metrics import Conversations
from actors.pool import EnginePool
from rlenv.core.adapters import adapter_at
from rlenv.core.types import Sampling
from rlenv.env.collect import Collected, Episode

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
ray.init(address="local", num_cpus=1, include_dashboard=False, _metrics_export_port=port, logging_level="ERROR",
         _system_config={"metrics_report_interval_ms": 500}, object_store_memory=100 * 2**20)
model, first, second, logs = sys.argv[1:]
config = EngineConfig(model=model, backend="transformers", dtype="float32", max_model_len=64, log_dir=logs, name="sim")
with EnginePool(config) as pool:
    for path, name in ((first, "it1"), (second, "it2")):
        asyncio.run(pool.generate([1, 2, 3], Sampling(max_tokens=4, seed=0), adapter_at(path, name)))
episodes = [Episode(episode_id=str(i), context_id="c", counterpart="x", seed=i) for i in range(3)]
counts = Conversations("it2")
taken = list(counts.begun(episodes))
async def results():
    yield Collected(episode=episodes[0])
    yield Collected(episode=episodes[1], failure="overlong", reason="r")
    await asyncio.sleep(3600)
async def first_two():
    stream = counts.ended(results())
    await anext(stream), await anext(stream)
    return stream
async def main():
    stream = await first_two()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        await asyncio.sleep(0.5)
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
                lines = [l for l in page.read().decode().splitlines() if l.startswith("ray_rlenv")]
        except OSError:
            continue
        if any("conversations_in_flight" in l for l in lines) and any("conversations_total" in l for l in lines):
            print(json.dumps(lines), flush=True)
            return
asyncio.run(asyncio.wait_for(main(), 100))
ray.shutdown()
"""


def value(lines: list[str], name: str, *tags: str) -> float:
    """Returns the value of the one metric with this name and these tags."""
    (found,) = [line for line in lines if line.startswith(f"ray_rlenv_{name}{{") and all(tag in line for tag in tags)]
    return float(found.rsplit(" ", 1)[1])


@pytest.mark.slow
@pytest.mark.ray
def test_prometheus_finds_queues_tokens_versions_swaps_and_conversations_at_a_nodes_endpoint(tiny, tmp_path):
    command = [sys.executable, "-c", SCRIPT, tiny[0], tiny[1].path, tiny[2].path, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, env=environment())
    assert done.returncode == 0, done.stderr[-2000:]
    lines = json.loads(done.stdout.splitlines()[-1])
    engine = 'engine="engine sim-0"'
    assert value(lines, "engine_queue", engine) == 0
    assert value(lines, "engine_tokens_total", engine, 'kind="sampled"') == 8
    assert value(lines, "engine_tokens_total", engine, 'kind="prompt"') == 6
    assert [value(lines, "engine_adapter", engine, f'adapter="{name}"') for name in ("it1", "it2")] == [0, 1]
    assert value(lines, "adapter_swap_seconds_count", engine) == 2
    assert value(lines, "conversations_in_flight", 'collection="it2"') == 1
    assert value(lines, "conversations_total", 'collection="it2"', 'failure="none"') == 1
    assert value(lines, "conversations_total", 'collection="it2"', 'failure="overlong"') == 1


def environment() -> dict[str, str]:
    import os

    return {**os.environ, "PYTHONPATH": str(ROOT), "RAY_raylet_start_wait_time_s": "300"}


def test_without_ray_conversations_are_collected_all_the_same():
    episodes = [Episode(episode_id=str(i), context_id="c", counterpart="x", seed=i) for i in range(2)]
    counts = Conversations("base")

    async def results():
        for episode in counts.begun(episodes):
            yield Collected(episode=episode)

    async def all_of_them():
        return [result.episode async for result in counts.ended(results())]

    assert run(all_of_them()) == episodes
