"""Weak scaling: turns a second of conversations on 1 to 64 modelled engines, with as many conversations for each.

    python tests/benchmarks/bench_weak_scaling.py [--engines 1,4,16,64] [--calls ray|none] [--conversations 16]

Prints one JSON line. The env, the speakers, the router (``EnginePool``) and, with ``--calls ray``, the supervised Ray
calls are the product's. Modelled are the engines: all running replies of one get a token each step, which takes
``--step-ms`` and ``--request-ms`` for each of them, at most ``--slots`` at once; prompts cost nothing. Lengths are
log-normal with a median of ``--tokens`` (of user and chatbot) and a cap of four times that. Many engines share a
process (``--hosts``). A conversation that ends is replaced by another.

``value`` is the efficiency of the most engines: their turns a second (a turn is a message of each seat), over those of
one engine times their number, in a window after a warm-up. ``driver_cpu_ms`` is the CPU time of a turn in the driver's
process, the bound of one driver is a thousand over it. ``router_us`` is that of ``EnginePool.generate`` alone, on
engines that answer at once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from functools import partial
from heapq import heappop, heappush
from importlib.metadata import version
from itertools import count
from typing import Any

import psutil
import ray

from actors.engines.config import EngineConfig
from actors.pool import EnginePool
from actors.supervision import Supervised, start_all
from rlenv.core.types import Generation, Message, Sampling, SessionContext
from rlenv.env.collect import Episode, collect
from rlenv.env.conversation import Limits
from rlenv.env.core import ConversationCore
from rlenv.env.scenarios import Scenario
from rlenv.prompting.chat_format import chat_format
from rlenv.speakers.engine import EngineSpeaker
from trainers.pretrain.loop import train_tokenizer

SAID = "I sleep badly and it is mostly work, I think. "
WORD = 40  # the token that replies consist of


class ModelledEngine:
    """An engine whose running replies share its steps, without a model."""

    def __init__(self, step_s: float, request_s: float, slots: int) -> None:
        self.step_s, self.request_s, self.slots = step_s, request_s, slots
        self.running: list[tuple[float, int, asyncio.Future[None]]] = []
        self.waiting: deque[tuple[int, asyncio.Future[None]]] = deque()
        self.numbers = count()
        self.steps, self.seen = 0.0, 0.0
        self.timer: asyncio.TimerHandle | None = None

    async def generate_each(
        self, token_ids: Any, sampling: Sampling, seeds: tuple[int | None, ...], *_: Any
    ) -> list[Generation]:
        """Returns a reply for each seed, when its last token is due."""
        lengths = [self.length(sampling, seed) for seed in seeds]
        due = [asyncio.get_running_loop().create_future() for _ in seeds]
        self.advance()
        self.waiting.extend(zip(lengths, due, strict=True))
        self.admit()
        await asyncio.gather(*due)
        stop = sampling.stop_token_ids[0]
        return [
            Generation(token_ids=(WORD,) * (n - 1) + (stop,), logprobs=(-1.0,) * n, finish_reason="stop")
            for n in lengths
        ]

    @staticmethod
    def length(sampling: Sampling, seed: int | None) -> int:
        """Returns the number of a reply's tokens."""
        drawn = random.Random(seed).lognormvariate(0.0, 0.6)
        return max(2, min(sampling.max_tokens, int(drawn * sampling.max_tokens / 4)))

    def advance(self) -> None:
        """Counts the steps until now, and answers what they finished."""
        now = time.monotonic()
        if self.running:
            self.steps += (now - self.seen) / self.seconds()
        self.seen = now
        while self.running and self.running[0][0] <= self.steps + 1e-6:
            _, _, due = heappop(self.running)
            if not due.done():
                due.set_result(None)

    def seconds(self) -> float:
        """Returns the time of a step."""
        return self.step_s + self.request_s * len(self.running)

    def admit(self) -> None:
        """Lets waiting requests join, and sets the clock to the next reply's end."""
        while self.waiting and len(self.running) < self.slots:
            length, due = self.waiting.popleft()
            heappush(self.running, (self.steps + length, next(self.numbers), due))
        if self.timer is not None:
            self.timer.cancel()
        if self.running:
            wait = (self.running[0][0] - self.steps) * self.seconds()
            self.timer = asyncio.get_running_loop().call_later(max(0.0, wait), self.tick)

    def tick(self) -> None:
        """Runs when a reply is due."""
        self.advance()
        self.admit()


class Host:
    """Several modelled engines in one process."""

    def __init__(self, engines: int, *model: Any) -> None:
        self.engines = [ModelledEngine(*model) for _ in range(engines)]

    async def generate_each(self, engine: int, *request: Any) -> list[Generation]:
        """Returns what an engine replies."""
        return await self.engines[engine].generate_each(*request)


class AtOnce:
    """An engine that answers at once."""

    async def generate_each(self, *_: Any) -> list[Generation]:
        """Returns one reply."""
        return [Generation(token_ids=(WORD, 0), logprobs=(-1.0, -1.0), finish_reason="stop")]


class Replica:
    """A replica of the pool, on an engine in this process or at a host."""

    restarts, pid = 0, 0

    def __init__(self, index: int, engine: Any, place: int | None = None) -> None:
        self.name, self.engine, self.place = f"engine modelled-{index}", engine, place

    async def call(self, method: str, *request: Any) -> Any:
        """Returns what the engine replies."""
        if self.place is None:
            return await self.engine.generate_each(*request)
        return await self.engine.call(method, self.place, *request)


def pool_of(replicas: list[Replica], args: argparse.Namespace) -> EnginePool:
    """Returns a pool that routes to ``replicas``."""
    config = EngineConfig(model="modelled", backend="scripted", max_model_len=100_000, max_num_seqs=args.slots)
    pool = EnginePool(config)
    pool._replicas = replicas  # type: ignore[assignment]
    pool._load = {replica.name: 0 for replica in replicas}
    return pool


def scenarios(num: int, tokens: int) -> list[Scenario]:
    """Returns user contexts of about ``tokens`` tokens."""
    earlier = tuple(
        Message(role=("user", "assistant")[i % 2], content=f"{SAID * (tokens // 26 // 20)}{i}") for i in range(20)
    )
    return [
        Scenario(
            context_id=f"c{i}",
            user_id=f"u{i}",
            context=SessionContext(profile=f"{SAID}{i}", recent_sessions=(earlier,) if tokens else ()),
            opener="assistant",
        )
        for i in range(num)
    ]


class Counting(EngineSpeaker):
    """A speaker that counts its messages."""

    said = 0

    async def reply(self, state: Any, seed: int) -> Any:
        """Returns the next message."""
        utterance = await super().reply(state, seed)
        self.said += 1
        return utterance


def seats(pool: EnginePool, args: argparse.Namespace) -> tuple[Counting, EngineSpeaker]:
    """Returns the chatbot and the user."""
    chat = chat_format(train_tokenizer([f"{SAID} user assistant system"] * 3, 400, 32_768))
    short, long = (Sampling(max_tokens=4 * tokens) for tokens in args.tokens)

    def text(context: SessionContext) -> str:
        earlier = "\n".join(m.content for session in context.recent_sessions for m in session)
        return f"{context.profile}{earlier}"

    chatbot = Counting("bot", pool, chat, "chatbot", text, long)
    return chatbot, EngineSpeaker("user", pool, chat, "user", text, short)


async def window(pool: EnginePool, num: int, args: argparse.Namespace, hosts: list[int]) -> dict[str, float]:
    """Returns turns a second and CPU times over ``args.seconds``, after ``args.warm_s``."""
    chatbot, user = seats(pool, args)
    core = ConversationCore(scenarios(64, args.context_tokens), {"user": user}, "chatbot", Limits(max_turns=args.turns))

    def plan() -> Iterator[Episode]:
        for i in count():
            yield Episode(episode_id=f"e{i}", context_id=f"c{i % 64}", counterpart="user", seed=args.seed + i)

    async def drive() -> None:
        async for result in collect(chatbot, core.sibling, plan(), concurrency=num * args.conversations):
            assert result.failure is None, result.reason

    def clocks() -> list[float]:
        elsewhere = [sum(psutil.Process(pid).cpu_times()[:2]) for pid in hosts]
        return [time.perf_counter(), time.process_time(), sum(elsewhere), chatbot.said]

    driving = asyncio.ensure_future(drive())
    await asyncio.wait([driving], timeout=args.warm_s)
    before, began = clocks(), time.monotonic()
    while not driving.done() and time.monotonic() - began < args.seconds * (1 if chatbot.said > args.least else 4):
        await asyncio.wait([driving], timeout=1.0)
    wall, own, others, turns = (b - a for a, b in zip(before, clocks(), strict=True))
    if driving.done():
        driving.result()
    driving.cancel()
    await asyncio.gather(driving, return_exceptions=True)
    return {
        "turns_per_s": round(turns / wall, 2),
        "driver_cpu_ms": round(1000 * own / turns, 3),
        "driver_busy": round(own / wall, 3),
        "hosts_cpu_ms": round(1000 * others / turns, 3),
    }


def router_us(num: int, args: argparse.Namespace) -> float:
    """Returns the CPU microseconds of a request to a pool whose engines answer at once."""
    pool = pool_of([Replica(i, AtOnce()) for i in range(num)], args)
    prompt, sampling = list(range(100)), Sampling(max_tokens=10)

    async def ask(requests: int) -> None:
        for i in range(requests):
            await pool.generate(prompt, sampling, None, f"c{i % (16 * num)}")

    asyncio.run(ask(500))
    began = time.process_time()
    asyncio.run(ask(3000))
    return round(1e6 * (time.process_time() - began) / 3000, 1)


def hosts_of(args: argparse.Namespace, folder: str) -> list[Supervised]:
    """Returns the processes of the engines, which are to be started; none where the engines are in this process."""
    if args.calls == "none":
        return []
    each = -(-max(args.engines) // args.hosts)
    make = partial(Host, each, args.step_ms / 1000, args.request_ms / 1000, args.slots)
    options = {"max_restarts": 0, "startup_timeout_s": 300.0, "answer_timeout_s": 1800.0, "num_cpus": 0.1}
    return [Supervised(f"host {i}", make, log=f"{folder}/host-{i}.log", **options) for i in range(args.hosts)]


def measure(num: int, args: argparse.Namespace, hosts: list[Supervised]) -> dict[str, float]:
    """Returns the figures of ``num`` engines."""
    if hosts:
        replicas = [Replica(i, hosts[i % len(hosts)], i // len(hosts)) for i in range(num)]
    else:
        model = (args.step_ms / 1000, args.request_ms / 1000, args.slots)
        replicas = [Replica(i, ModelledEngine(*model)) for i in range(num)]
    found = asyncio.run(window(pool_of(replicas, args), num, args, [host.pid for host in hosts]))
    return found | {"router_us": router_us(num, args)}


def main() -> None:
    """Measures each number of engines and prints the line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--engines", type=lambda text: [int(n) for n in text.split(",")], default=[1, 4, 16, 64])
    parser.add_argument("--calls", choices=["ray", "none"], default="ray")
    parser.add_argument("--conversations", type=int, default=16, help="for each engine")
    parser.add_argument("--hosts", type=int, default=2, help="processes of the engines")
    parser.add_argument("--turns", type=int, default=10, help="of a conversation")
    parser.add_argument("--tokens", type=int, nargs=2, default=[30, 120], help="median length of the user's and bot's")
    parser.add_argument("--context-tokens", type=int, default=0)
    parser.add_argument("--step-ms", type=float, default=15.0)
    parser.add_argument("--request-ms", type=float, default=0.1)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--warm-s", type=float, default=6.0)
    parser.add_argument("--seconds", type=float, default=15.0, help="of the window")
    parser.add_argument("--least", type=int, default=300, help="turns below which the window is up to 4 times as long")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    if args.calls == "ray":
        ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    with tempfile.TemporaryDirectory() as folder:
        hosts = hosts_of(args, folder)
        if hosts:
            start_all(hosts)
        found = {num: measure(num, args, hosts) for num in args.engines}
        for host in hosts:
            host.close()
    ray.shutdown()
    first, last = min(args.engines), max(args.engines)
    one = found[first]["turns_per_s"] / first
    efficiency = {num: round(figures["turns_per_s"] / num / one, 3) for num, figures in found.items()}
    line = {
        "benchmark": "weak_scaling",
        "value": efficiency[last],
        "unit": "efficiency",
        "baseline": found[first]["turns_per_s"],
        "efficiency": efficiency,
        "engines": found,
        "settings": vars(args),
        "machine": {"cpus": os.cpu_count(), "processor": platform.machine(), "load": os.getloadavg()[0]},
        "versions": {"python": platform.python_version(), **{p: version(p) for p in ("rlenv", "ray")}},
        "seed": args.seed,
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
