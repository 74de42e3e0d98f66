"""CPU time of the eight alternatives of a critical turn: as one request to an engine, and as eight.

    python tests/benchmarks/bench_alternatives.py [--backend transformers] [--context-tokens 1000] [--turns 16]

Prints one JSON line. ``value`` is the CPU milliseconds of a turn in the driver with one request, ``baseline`` those
with eight, ``ratio`` the one over the other; ``engine_cpu_ms`` are the same of the engine's process, ``wall_ms`` of the
clock. Both ways are measured by turns, in five rounds, and the medians of the rounds are printed; their replies must be
equal. The engine is a Ray actor with a random Llama of two layers, or, with ``--backend scripted``, without a model.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from importlib.metadata import version
from pathlib import Path

import psutil
import ray

from actors.engines.config import EngineConfig
from actors.pool import EnginePool
from rlenv.core.aio import all_of
from rlenv.core.types import ConversationState, Sampling, SessionContext, Utterance
from rlenv.env.conversation import Limits, apply, begin, reply_seed
from rlenv.prompting.chat_format import chat_format
from rlenv.speakers.engine import EngineSpeaker
from trainers.pretrain.loop import train_tokenizer

ROUNDS, ALTERNATIVES, REPLY_TOKENS = 5, 8, 30
SAID = "i sleep badly and it is mostly work i think what happened then that sounds hard"
Way = Callable[[EngineSpeaker, ConversationState, list[int]], Awaitable[list[Utterance]]]


async def one_request(speaker: EngineSpeaker, state: ConversationState, seeds: list[int]) -> list[Utterance]:
    """Returns the alternatives, as ``sample_alternatives`` asks for them."""
    return await speaker.replies(state, seeds)


async def eight_requests(speaker: EngineSpeaker, state: ConversationState, seeds: list[int]) -> list[Utterance]:
    """Returns the alternatives, each by a request of its own."""
    return await all_of(lambda seed: speaker.reply(state, seed), seeds)


def write_model(folder: Path) -> str:
    """Writes a random Llama with a tokenizer of few words; returns the folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    tokenizer = train_tokenizer([f"{SAID} user assistant system"] * 3, 400, 8192)
    config = LlamaConfig(
        hidden_size=128, intermediate_size=320, num_hidden_layers=2, num_attention_heads=2, vocab_size=len(tokenizer),
        max_position_embeddings=8192,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def conversation(context: SessionContext, seed: int) -> ConversationState:
    """Returns a conversation of four turns."""
    state = begin(f"c{seed}", context, seed=seed, opener="user")
    for number in range(8):
        state = apply(state, Utterance(text=f"{SAID} {number} {seed}"), Limits(max_turns=20))
    return state


def measure(pool: EnginePool, speaker: EngineSpeaker, states: list[ConversationState], way: Way) -> tuple[list, dict]:
    """Returns the replies, and the milliseconds of a turn by the driver's, the engine's and the wall's clock."""

    async def turn(state: ConversationState) -> list[Utterance]:
        return await way(speaker, state, [reply_seed(state, "alternative", i) for i in range(ALTERNATIVES)])

    def clocks() -> tuple[float, float, float]:
        engine = psutil.Process(pool.pids[0]).cpu_times()
        return time.process_time(), engine.user + engine.system, time.perf_counter()

    before = clocks()
    replies = asyncio.run(all_of(turn, states))
    spent = [1000 * (b - a) / len(states) for a, b in zip(before, clocks(), strict=True)]
    return replies, dict(zip(("driver_cpu_ms", "engine_cpu_ms", "wall_ms"), spent, strict=True))


def main() -> None:
    """Measures both ways and prints the line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--backend", choices=["transformers", "scripted"], default="transformers")
    parser.add_argument("--context-tokens", type=int, default=1000)
    parser.add_argument("--turns", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    ways: dict[str, Way] = {"eight": eight_requests, "one": one_request}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as folder:
        model = write_model(Path(folder) / "model")
        from transformers import AutoTokenizer

        chat = chat_format(AutoTokenizer.from_pretrained(model))
        words = f"{SAID} " * (args.context_tokens // len(chat.encode(SAID)))
        sampling = Sampling(max_tokens=REPLY_TOKENS)
        config = EngineConfig(model=model, backend=args.backend, dtype="float32", max_model_len=8192, log_dir=folder)
        with EnginePool(config) as pool:
            for number in range(-1, ROUNDS):
                first = args.seed + 1000 * (number + 1)
                context = SessionContext(profile=f"{words}{first}")
                states = [conversation(context, first + i) for i in range(args.turns if number >= 0 else 2)]
                replies = {}
                for name in sorted(ways, reverse=number % 2 == 0):
                    speaker = EngineSpeaker("user", pool, chat, "user", lambda c: c.profile or "", sampling)
                    replies[name], spent = measure(pool, speaker, states, ways[name])
                    found[name] += [spent] if number >= 0 else []
                assert replies["one"] == replies["eight"]
    ray.shutdown()
    medians = {
        name: {clock: round(statistics.median(r[clock] for r in rounds), 2) for clock in rounds[0]}
        for name, rounds in found.items()
    }
    value, baseline = medians["one"]["driver_cpu_ms"], medians["eight"]["driver_cpu_ms"]
    line = {
        "benchmark": "alternatives",
        "value": value,
        "unit": "CPU ms a turn",
        "baseline": baseline,
        "ratio": round(value / baseline, 3),
        **medians,
        "settings": vars(args),
        "machine": {"cpus": os.cpu_count(), "processor": platform.machine(), "load": os.getloadavg()[0]},
        "versions": {"python": platform.python_version(), **{p: version(p) for p in ("rlenv", "ray", "torch")}},
        "seed": args.seed,
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
