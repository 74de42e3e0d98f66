"""What compiling costs a vLLM engine at its start and gains it afterwards, and from how many tokens on it pays.

    python tests/benchmarks/bench_engine_start.py [--num-gpus 1] [--model population-llama|smollm2|FOLDER]

Prints one JSON line. Each way starts an engine twice with the same, at first empty, folder for compiled code:
``first_s`` and ``again_s`` are the seconds until it serves, ``tokens_per_s`` what it then samples with ``--requests``
requests at once of ``--tokens`` tokens each. The ways: ``eager`` (``enforce_eager: true``), ``compiled`` (false) and,
on a GPU, ``few graphs``, which captures CUDA graphs for ``--graph-sizes`` only. ``value`` is the number of sampled
tokens from which compiled code that lies ready pays for its longer start; None if it is never faster.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import ray

from actors.engines.config import EngineConfig
from actors.pool import EnginePool
from rlenv.core.aio import all_of
from rlenv.core.types import Sampling
from rlenv.models.named import named_model


def measured(config: EngineConfig, args: argparse.Namespace, cache: str) -> dict[str, float]:
    """Returns the seconds of a start and of the requests, by name."""
    os.environ["VLLM_CACHE_ROOT"] = cache
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    prompts = [[1 + (7 * i + j) % 300 for j in range(args.prompt)] for i in range(args.requests)]
    began = time.perf_counter()
    with EnginePool(config) as pool:
        start_s = time.perf_counter() - began

        async def sample(seed: int) -> int:
            asked = [(prompt, Sampling(max_tokens=args.tokens, seed=seed + i)) for i, prompt in enumerate(prompts)]
            return sum(len(found.token_ids) for found in await all_of(lambda request: pool.generate(*request), asked))

        asyncio.run(sample(0))  # the first batch of each size pays for what is set up lazily
        began = time.perf_counter()
        tokens = asyncio.run(sample(1000))
        seconds = time.perf_counter() - began
    ray.shutdown()
    return {"start_s": round(start_s, 1), "tokens_per_s": round(tokens / seconds, 1)}


def pays_from(eager: dict[str, float], other: dict[str, float]) -> int | None:
    """Returns the number of sampled tokens from which the other way, with its code ready, has caught up with eager."""
    gained = 1 / eager["tokens_per_s"] - 1 / other["tokens_per_s"]
    late = other["again_s"] - eager["again_s"]
    return None if gained <= 0 else max(0, round(late / gained))


def main() -> None:
    """Measures the ways and prints the line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="population-llama")
    parser.add_argument("--requests", type=int, default=64)
    parser.add_argument("--prompt", type=int, default=200)
    parser.add_argument("--tokens", type=int, default=100)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--num-gpus", type=float, default=0)
    parser.add_argument("--graph-sizes", default="1,2,4,8,16,32,64,128,256")
    args = parser.parse_args()
    ways: dict[str, dict[str, Any]] = {"eager": {"enforce_eager": True}, "compiled": {"enforce_eager": False}}
    if args.num_gpus:
        sizes = tuple(int(size) for size in args.graph_sizes.split(","))
        ways["few graphs"] = {"enforce_eager": False, "graph_sizes": sizes}
    found: dict[str, dict[str, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        model = str(named_model(args.model, Path(folder)) or args.model)
        for name, settings in ways.items():
            config = EngineConfig(
                model=model, threads=args.threads, num_cpus=1, num_gpus=args.num_gpus, max_model_len=2048,
                max_num_seqs=args.requests, log_dir=folder, **settings,
            )  # fmt: skip
            cache = str(Path(folder, "cache", name.replace(" ", "_")))
            first, again = measured(config, args, cache), measured(config, args, cache)
            speed = max(first["tokens_per_s"], again["tokens_per_s"])
            found[name] = {"first_s": first["start_s"], "again_s": again["start_s"], "tokens_per_s": speed}
    line = {
        "benchmark": "engine_start",
        "value": pays_from(found["eager"], found["compiled"]),
        "unit": "tokens",
        "ways": found,
        "pays_from": {name: pays_from(found["eager"], way) for name, way in found.items() if name != "eager"},
        "settings": vars(args),
        "machine": {"cpus": os.cpu_count(), "processor": platform.machine(), "load": os.getloadavg()[0]},
        "versions": {name: version(name) for name in ("rlenv", "ray", "torch", "transformers")},
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
