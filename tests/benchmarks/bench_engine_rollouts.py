"""Tokens per second of conversations on a real engine, against the engine alone and against conversations in lockstep.

    python tests/benchmarks/bench_engine_rollouts.py [--backend vllm] [--model population-llama|smollm2|FOLDER]

Prints one JSON line. Both seats are on one pool, ``--conversations`` run at once. Messages are sampled past their end
to a number of tokens drawn from a log-normal distribution (median ``--tokens``, deviation of the logarithm
``--spread``, at most ``--max-tokens``), since a small model's messages do not have the long tail of a chatbot's;
``--spread 0`` leaves them as they are. ``value`` is the sampled tokens a second of ``collect``; ``baseline`` that of
the same requests given to the engine all at once, which finds the prompts that ``collect`` left in its prefix cache;
``chained`` that of the same requests given to a new engine, each when the one before it in its conversation is
answered, so that it has to read what the other seat said; ``lockstep`` that of other conversations of the same kind in
which all wait for the slowest message. ``ratio`` is value over baseline, ``over_chained`` and ``over_lockstep`` value
over those: ``1 - over_chained`` is the share of rlenv's own work.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Coroutine
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import ray
from transformers import AutoTokenizer

from actors.engines.config import EngineConfig
from actors.pool import EnginePool
from rlenv.core.aio import all_of
from rlenv.core.types import Adapter, Generation, Sampling
from rlenv.env.collect import Episode, collect
from rlenv.env.conversation import Limits, apply, begin, reply_seed
from rlenv.env.core import ConversationCore
from rlenv.env.scenarios import Scenario
from rlenv.models.named import named_model
from rlenv.population.corpus import generate_sessions
from rlenv.prompting.chat_format import chat_format
from rlenv.prompting.context import ContextConfig
from rlenv.prompting.system_texts import chatbot_system_text, simulator_system_text, token_counter
from rlenv.speakers.engine import EngineSpeaker

Request = tuple[list[int], Sampling, Adapter | None, str | None]


class Recorder:
    """An engine that keeps what it is asked, and draws the length of each answer if ``lengths`` are given."""

    def __init__(self, pool: EnginePool, lengths: Callable[[int], int] | None = None) -> None:
        self.pool = pool
        self.lengths = lengths
        self.requests: list[Request] = []
        self.sampled = 0

    async def generate(
        self, prompt: list[int], sampling: Sampling, adapter: Adapter | None = None, conversation: str | None = None
    ) -> Generation:
        """Returns the pool's answer; of one with a drawn length, without the tokens that would have ended it."""
        ends = set(sampling.stop_token_ids)
        if self.lengths:
            drawn = {"max_tokens": self.lengths(sampling.seed or 0), "stop_token_ids": ()}
            sampling = sampling.model_copy(update=drawn)
        self.requests.append((prompt, sampling, adapter, conversation))
        found = await self.pool.generate(prompt, sampling, adapter, conversation)
        self.sampled += len(found.token_ids)
        if not self.lengths:
            return found
        said = [pair for pair in zip(found.token_ids, found.logprobs, strict=True) if pair[0] not in ends]
        ids, logprobs = zip(*said, strict=True) if said else ((), ())
        return found.model_copy(update={"token_ids": ids, "logprobs": logprobs})


def drawn_lengths(median: int, spread: float, most: int) -> Callable[[int], int] | None:
    """Returns the function from a request's seed to its number of tokens; None if ``spread`` is 0."""
    if spread == 0:
        return None
    return lambda seed: int(np.clip(median * np.exp(spread * np.random.default_rng(seed).standard_normal()), 1, most))


def seats(
    pool: EnginePool, folder: str, max_tokens: int, lengths: Callable[[int], int] | None
) -> tuple[Recorder, EngineSpeaker, EngineSpeaker]:
    """Returns the recorder and, on it, the chatbot and the user."""
    recorder, chat = Recorder(pool, lengths), chat_format(AutoTokenizer.from_pretrained(folder))
    count, sampling = token_counter(chat), Sampling(max_tokens=max_tokens)
    config = ContextConfig(budget_tokens=200)
    user_text, bot_text = simulator_system_text(config, count), chatbot_system_text(config, count)
    chatbot = EngineSpeaker("bot", recorder, chat, "chatbot", bot_text, sampling)  # type: ignore[arg-type]
    user = EngineSpeaker("user", recorder, chat, "user", user_text, sampling)  # type: ignore[arg-type]
    return recorder, chatbot, user


async def collecting(chatbot: EngineSpeaker, user: EngineSpeaker, scenarios: list[Scenario], limits: Limits) -> None:
    """Holds a conversation in each scenario, none waiting for another."""
    core = ConversationCore(scenarios, {"user": user}, "chatbot", limits)
    plan = [
        Episode(episode_id=s.context_id, context_id=s.context_id, counterpart="user", seed=i)
        for i, s in enumerate(scenarios)
    ]
    async for _ in collect(chatbot, core.sibling, plan, concurrency=len(plan)):
        pass


async def in_lockstep(chatbot: EngineSpeaker, user: EngineSpeaker, scenarios: list[Scenario], limits: Limits) -> None:
    """Holds a conversation in each scenario, all waiting for the slowest message."""
    states = [begin(s.context_id, s.context, seed=i, opener="assistant") for i, s in enumerate(scenarios)]
    while going := [state for state in states if not state.end]:
        speaker = chatbot if len(going[0].turns) % 2 == 0 else user
        said = await all_of(lambda state, by=speaker: by.reply(state, reply_seed(state)), going)
        after = iter([apply(state, utterance, limits) for state, utterance in zip(going, said, strict=True)])
        states = [state if state.end else next(after) for state in states]


async def in_chains(pool: EnginePool, requests: list[Request]) -> None:
    """Gives the requests of each conversation to the pool, each when the one before is answered."""
    chains: dict[str, list[Request]] = {}
    for request in requests:
        chains.setdefault(str(request[3]).partition(":")[2], []).append(request)  # the key begins with the seat

    async def one_after_the_other(chain: list[Request]) -> None:
        for request in chain:
            await pool.generate(*request)

    await all_of(one_after_the_other, list(chains.values()))


def timed(work: Callable[[], Coroutine[Any, Any, Any]]) -> float:
    """Returns the seconds that it takes."""
    start = time.perf_counter()
    asyncio.run(work())
    return time.perf_counter() - start


def main() -> None:
    """Measures the four and prints the line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--backend", choices=["transformers", "vllm"], default="vllm")
    parser.add_argument("--model", default="population-llama")
    parser.add_argument("--conversations", type=int, default=64)
    parser.add_argument("--max-turns", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=30)
    parser.add_argument("--spread", type=float, default=1.0)
    parser.add_argument("--max-tokens", type=int, default=256)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--num-gpus", type=float, default=0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    limits = Limits(max_turns=args.max_turns)
    lengths = drawn_lengths(args.tokens, args.spread, args.max_tokens)
    with tempfile.TemporaryDirectory() as cache:
        folder = str(named_model(args.model, Path(cache)) or args.model)
        config = EngineConfig(
            model=folder, backend=args.backend, threads=args.threads, num_cpus=1, num_gpus=args.num_gpus,
            max_model_len=2048, max_num_seqs=max(64, args.conversations), max_loras=0, log_dir=cache,
        )  # fmt: skip
        made = generate_sessions(2 * args.conversations + 2, 1, args.seed)
        scenarios = [
            Scenario(context_id=s.session_id, user_id=s.user_id, context=s.context, opener="assistant") for s in made
        ]
        first, second = scenarios[: args.conversations], scenarios[args.conversations : 2 * args.conversations]
        with EnginePool(config) as pool:
            _, *warm = seats(pool, folder, args.max_tokens, lengths)
            timed(lambda: collecting(*warm, scenarios[-2:], limits))
            together, *ours = seats(pool, folder, args.max_tokens, lengths)
            seconds = {"collect": timed(lambda: collecting(*ours, first, limits))}
            seconds["alone"] = timed(lambda: all_of(lambda r: pool.generate(*r), together.requests))
            stepped, *theirs = seats(pool, folder, args.max_tokens, lengths)
            seconds["lockstep"] = timed(lambda: in_lockstep(*theirs, second, limits))
        with EnginePool(config) as pool:
            _, *warm = seats(pool, folder, args.max_tokens, lengths)
            timed(lambda: collecting(*warm, scenarios[-2:], limits))
            seconds["chained"] = timed(lambda: in_chains(pool, together.requests))
    ray.shutdown()
    sampled = dict.fromkeys(("collect", "alone", "chained"), together.sampled) | {"lockstep": stepped.sampled}
    speed = {name: round(sampled[name] / seconds[name], 1) for name in seconds}
    line = {
        "benchmark": "engine_rollouts",
        "value": speed["collect"],
        "unit": "tokens/s",
        "baseline": speed["alone"],
        "ratio": round(speed["collect"] / speed["alone"], 3),
        "over_chained": round(speed["collect"] / speed["chained"], 3),
        "over_lockstep": round(speed["collect"] / speed["lockstep"], 2),
        "requests": len(together.requests),
        "sampled_tokens": sampled,
        "seconds": {name: round(value, 1) for name, value in seconds.items()},
        "settings": vars(args),
        "machine": {"cpus": os.cpu_count(), "processor": platform.machine(), "load": os.getloadavg()[0]},
        "versions": {name: version(name) for name in ("rlenv", "ray", "torch", "transformers")},
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
