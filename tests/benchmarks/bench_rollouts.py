"""Completed turns per second of collect, of the vector env and of a plain loop, with engines of long-tailed latency.

    python tests/benchmarks/bench_rollouts.py [--median-s 0.05] [--concurrency 64] [--seed 0]

Prints one JSON line. Agent and user are stand-ins whose replies take log-normal times, one in 50 of them 20 times as
long. ``value`` is collect's turns (the agent's message and the user's answer) per second, ``baseline`` the plain
loop's, ``ratio`` the one over the other. ``own_share`` is the share of wall time not spent waiting for engines: the
process's CPU seconds, the stand-ins' own included, over the wall's. ``mean_in_flight`` is how many replies were under
way on average: a barrier between turns leaves places idle.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version

from rlenv.core.aio import run
from rlenv.core.types import SessionContext
from rlenv.env.collect import Episode, collect
from rlenv.env.conversation import Limits, reply_seed
from rlenv.env.core import ConversationCore
from rlenv.env.gym import ConversationEnv
from rlenv.env.scenarios import Scenario
from rlenv.env.vector import ConversationVectorEnv
from rlenv.speakers.scripted import Latency, ScriptedChatbot, ScriptedSpeaker, ScriptedUser

SCENARIOS = [
    Scenario(context_id=f"c{i}", user_id=f"u{i}", context=SessionContext(), opener="assistant") for i in range(64)
]
LIMITS = Limits(max_turns=10)


@dataclass
class Measured:
    """What one way of driving the env did in its time."""

    turns_per_s: float
    own_share: float
    mean_in_flight: float
    turns: int


class Meter:
    """The engines' side: agent and user, and the seconds that their replies took by their own clock."""

    def __init__(self, latency: Latency) -> None:
        self.latency = latency
        self.engine_s = 0.0
        self.agent, self.user = ScriptedChatbot(), ScriptedUser(leave_rate=0.05)
        for speaker in (self.agent, self.user):
            speaker.latency = self  # type: ignore[assignment]

    async def wait(self, seed: int) -> None:
        """Returns when the reply is due."""
        self.engine_s += self.latency.seconds(seed)
        await self.latency.wait(seed)


def measure(drive: Callable[[Meter], int], latency: Latency) -> Measured:
    """Returns how fast ``drive`` is, which returns the turns that it completed."""
    meter = Meter(latency)
    wall, own = time.perf_counter(), time.process_time()
    turns = drive(meter)
    wall, own = time.perf_counter() - wall, time.process_time() - own
    return Measured(round(turns / wall, 2), round(own / wall, 4), round(meter.engine_s / wall, 2), turns)


def plain_loop(meter: Meter, episodes: int, seed: int) -> int:
    """One conversation after another through the Gymnasium face."""
    env, turns = ConversationEnv("chatbot", SCENARIOS, {"user": meter.user}, LIMITS), 0
    for number in range(episodes):
        env.reset(seed=seed + number)
        while not env.core.over:
            env.step(run(meter.agent.reply(env.core.state, reply_seed(env.core.state))).text)
            turns += 1
    return turns


def vector_env(meter: Meter, num_envs: int, steps: int, seed: int) -> int:
    """All conversations in step: the agent's replies at once, then the users' at once."""
    vector = ConversationVectorEnv(num_envs, scenarios=SCENARIOS, counterparts={"user": meter.user}, limits=LIMITS)
    vector.reset(seed=seed)

    async def reply(speaker: ScriptedSpeaker, env: ConversationEnv) -> str:
        state = env.core.state
        return (
            "" if state.end else (await speaker.reply(state, reply_seed(state))).text
        )  # reset next, its action unread

    async def replies() -> list[str]:
        return list(await asyncio.gather(*(reply(meter.agent, env) for env in vector.envs)))

    turns = 0
    for _ in range(steps):
        turns += sum(not env.core.over for env in vector.envs)
        vector.step(run(replies()))
    return turns


def collecting(meter: Meter, episodes: int, concurrency: int, seed: int) -> int:
    """A coroutine a conversation, no barrier."""
    core = ConversationCore(SCENARIOS, {"user": meter.user}, "chatbot", LIMITS)
    plan = (
        Episode(episode_id=f"e{i}", context_id=f"c{i % 64}", counterpart="user", seed=seed + i) for i in range(episodes)
    )

    async def turns() -> int:
        results = collect(meter.agent, core.sibling, plan, concurrency=concurrency)
        return sum([len(result.rewards) async for result in results])

    return run(turns())


def main() -> None:
    """Measures the three and prints the line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--median-s", type=float, default=0.05)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    latency, n = Latency(median_s=args.median_s, sigma=0.8), args.concurrency
    found = {
        "plain_loop": measure(lambda m: plain_loop(m, 4, args.seed), latency),
        "vector_env": measure(lambda m: vector_env(m, n, 40, args.seed), latency),
        "collect": measure(lambda m: collecting(m, 8 * n, n, args.seed), latency),
    }
    value, baseline = found["collect"].turns_per_s, found["plain_loop"].turns_per_s
    line = {
        "benchmark": "rollouts",
        "value": value,
        "unit": "turns/s",
        "baseline": baseline,
        "ratio": round(value / baseline, 2),
        "settings": {**vars(args), "latency": asdict(latency), "max_turns": LIMITS.max_turns},
        **{name: asdict(measured) for name, measured in found.items()},
        "machine": {"cpus": os.cpu_count(), "processor": platform.machine(), "load": os.getloadavg()[0]},
        "versions": {"python": platform.python_version(), **{p: version(p) for p in ("rlenv", "gymnasium", "numpy")}},
        "seed": args.seed,
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
