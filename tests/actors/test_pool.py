"""Replicas die and are restarted with the same tokens; no process is left behind; failed starts report the cause."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from actors.engines.config import EngineConfig
from actors.pool import EnginePool
from actors.supervision import Supervised
from rlenv.core.errors import ConfigError, EngineError
from rlenv.core.types import Generation, Sampling

REQUESTS = [(list(range(5, 25 + i)), Sampling(max_tokens=60, seed=i)) for i in range(24)]
ROOT = Path(__file__).resolve().parents[2]


def _config(tiny, tmp_path, **settings) -> EngineConfig:
    defaults = {"dtype": "float32", "max_model_len": 512, "max_num_seqs": 8, "kv_cache_gib": 0.25, "max_restarts": 2}
    return EngineConfig(model=tiny[0], log_dir=str(tmp_path / "logs"), **(defaults | settings))


async def _ask_all(pool: EnginePool, disturb=None) -> list[tuple[int, ...]]:
    tasks = [asyncio.ensure_future(pool.generate(*request, None, f"c{i}")) for i, request in enumerate(REQUESTS)]
    if disturb is not None:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        disturb()
    return [reply.token_ids for reply in await asyncio.gather(*tasks)]


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def _core(pool: EnginePool) -> int:
    """Returns the process id of vLLM's engine core, by its memory: the largest child of the actor."""
    return max(psutil.Process(pool.pids[0]).children(), key=lambda child: child.memory_info().rss).pid


def _gone(pids: list[int]) -> bool:
    """Returns whether the processes end within half a minute; one that its parent has yet to collect has ended."""

    def lives(pid: int) -> bool:
        try:
            return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and any(map(lives, pids)):
        time.sleep(0.2)
    return not any(map(lives, pids))


@pytest.mark.ray
def test_two_replicas_share_the_work_and_a_killed_one_changes_no_token(tiny, tmp_path, cluster):
    with EnginePool(_config(tiny, tmp_path, backend="transformers", replicas=2, num_cpus=0.5)) as pool:
        undisturbed = asyncio.run(_ask_all(pool))
        assert len(set(pool.pids)) == 2
        assert asyncio.run(_ask_all(pool, lambda: _kill(pool.pids[1]))) == undisturbed
        stats = pool.stats()
        assert (stats.restarts, stats.requests) == (1, 48)
        assert stats.sampled_tokens == 2 * sum(map(len, undisturbed)) and stats.busy_s > 0


@pytest.mark.ray
def test_many_seeds_are_one_call_of_one_replica(tiny, tmp_path, cluster, monkeypatch):
    calls, call = [], Supervised.call

    async def counted(replica, method, *args):
        calls.append(method)
        return await call(replica, method, *args)

    prompt, sampling = REQUESTS[0]
    with EnginePool(_config(tiny, tmp_path, backend="scripted")) as pool:
        monkeypatch.setattr(Supervised, "call", counted)
        together = asyncio.run(pool.generate_each(prompt, sampling, range(8), None, "c"))
        assert len(calls) == 1 and pool.stats().requests == 8
        assert pool.stats().sampled_tokens == sum(len(reply.token_ids) for reply in together)
        asked = [sampling.model_copy(update={"seed": seed}) for seed in range(8)]
        assert together == [asyncio.run(pool.generate(prompt, each)) for each in asked]


def test_a_request_for_eight_replies_weighs_eight_when_a_replica_is_chosen(tiny, tmp_path, monkeypatch):
    reply = Generation(token_ids=(1,), logprobs=(0.0,), finish_reason="stop")

    async def answer(replica, method, prompt, sampling, seeds, *_):
        chosen.append(replica.name)
        await asyncio.sleep(0)
        return [reply] * len(seeds)

    async def ask(pool: EnginePool) -> None:
        seeds = [8, *[1] * 9]
        await asyncio.gather(*[pool.generate_each([1], Sampling(max_tokens=1), range(count)) for count in seeds])

    chosen: list[str] = []
    monkeypatch.setattr(Supervised, "call", answer)
    asyncio.run(ask(EnginePool(_config(tiny, tmp_path, backend="scripted", replicas=2))))
    assert chosen == ["engine engine-0", *["engine engine-1"] * 8, "engine engine-0"]


def test_a_conversation_stays_with_its_replica_until_that_is_busier_by_a_quarter_of_its_slots(tiny, tmp_path):
    pool = EnginePool(_config(tiny, tmp_path, backend="scripted", replicas=3, max_num_seqs=16))
    first, second, third = pool._replicas
    assert pool._route("a") is first
    pool._load |= {first.name: 4}
    assert pool._route("a") is first and pool._route(None) is second and pool._route("b") is second
    pool._load |= {first.name: 8, second.name: 5, third.name: 4}
    assert pool._route("a") is first and pool._route("b") is second
    pool._load |= {first.name: 9}
    assert pool._route("a") is third and pool._route("a") is third
    assert list(pool._homes) == ["b", "a"]


@pytest.mark.vllm
@pytest.mark.parametrize(
    "kills",
    [
        pytest.param(("core",), id="core"),  # that restarts change no token: above
        pytest.param(("actor", "core", "actor", "core"), id="both", marks=pytest.mark.exhaustive),
    ],
)
def test_a_killed_actor_or_engine_core_changes_no_token_until_the_restarts_are_used_up(kills, tiny, tmp_path, cluster):
    *survived, last = kills
    with EnginePool(_config(tiny, tmp_path, max_restarts=len(survived))) as pool:
        victims = {"actor": lambda: _kill(pool.pids[0]), "core": lambda: _kill(_core(pool))}
        undisturbed = asyncio.run(_ask_all(pool))
        for victim in survived:
            orphan = _core(pool)
            assert asyncio.run(_ask_all(pool, victims[victim])) == undisturbed
            assert _gone([orphan])
        assert pool.stats().restarts == len(survived)
        orphan = _core(pool)
        with pytest.raises(EngineError, match=rf"max_restarts = {len(survived)} is used up.*\n") as error:
            asyncio.run(_ask_all(pool, victims[last]))
        assert _gone([orphan])
        log_lines = (tmp_path / "logs" / "engine-0.log").read_text().splitlines()
        assert "engine-0.log" in str(error.value)
        assert any(line.strip() and line.strip() in str(error.value) for line in log_lines)


DRIVER = """
import json, os, sys, time
sys.path.insert(0, {root!r})
import psutil, ray
from actors.engines.config import EngineConfig
from actors.pool import EnginePool
ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
pool = EnginePool(EngineConfig(**json.loads(sys.argv[1]))).start()
print(json.dumps([pool.pids[0], *(c.pid for c in psutil.Process(pool.pids[0]).children(recursive=True))]), flush=True)
time.sleep(600)
"""


@pytest.mark.exhaustive  # a driver's actors end with it: launch/adversarial/test_flow.py; an actor's core: above
@pytest.mark.vllm
def test_a_killed_driver_leaves_no_process_behind(tiny, tmp_path):
    config = _config(tiny, tmp_path)
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER.format(root=str(ROOT)), json.dumps(vars(config))],
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
    )
    pids = json.loads(driver.stdout.readline())
    assert len(pids) >= 2
    driver.kill()
    driver.wait()
    assert _gone(pids)


@pytest.mark.ray
def test_a_pool_too_large_for_the_cluster_reports_what_it_asks_for_and_what_there_is(tiny, tmp_path, cluster):
    config = _config(tiny, tmp_path, backend="transformers")
    for short in (replace(config, replicas=3), replace(config, num_gpus=1)):
        with pytest.raises(ConfigError, match=r"asks for . x .*but the cluster has 2 CPU and 0 GPU"):
            EnginePool(short).start()


@pytest.mark.ray
def test_a_missing_model_is_a_config_error(tiny, tmp_path, cluster):
    config = replace(_config(tiny, tmp_path, backend="transformers"), model=str(tmp_path / "nothing"))
    with pytest.raises(ConfigError, match="nothing"):
        EnginePool(config).start()


def test_a_pool_that_is_not_running_raises(tiny, tmp_path):
    with pytest.raises(EngineError, match=r"call start\(\) first"):
        asyncio.run(EnginePool(_config(tiny, tmp_path)).generate([1], Sampling(max_tokens=1)))
