"""Starts one engine in this process and answers one request of the longest length, to measure its memory."""

from __future__ import annotations

import asyncio

from actors.engines.actor import EngineActor
from actors.engines.config import EngineConfig
from launch.measure.child import Peak, children_resident
from rlenv.core.types import Sampling
from trainers.backend.worker import Worker

REPLY = 8


def serve_one(payload: tuple[EngineConfig, int], worker: Worker) -> Peak | None:
    """Returns what the engine holds outside this process, if it does; ``payload`` is (settings, prompt tokens)."""
    return asyncio.run(_serve_one(*payload, worker.device))


async def _serve_one(config: EngineConfig, tokens: int, device: str) -> Peak | None:
    free = _free(device)
    engine = EngineActor(config)
    await engine.start()
    try:
        await engine.generate_each([5] * tokens, Sampling(max_tokens=REPLY, temperature=0.0), (None,))
        if config.backend != "vllm":  # in this process, which counts itself
            return None
        return Peak(free - _free(device) if device != "cpu" else children_resident())
    finally:
        await engine.close()


def _free(device: str) -> float:
    """Returns the free bytes of the GPU."""
    if device == "cpu":
        return 0.0
    import torch

    return float(torch.cuda.mem_get_info()[0])
