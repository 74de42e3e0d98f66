"""Memory of the conversations phase against its number of sessions, with stand-in speakers.

    python tests/benchmarks/bench_sessions_memory.py [--sessions 1000,4000]

Prints one JSON line. ``value`` is the KiB by which the most memory of the process grows with each further session, from
the fewest to the most. A session has ``--turns`` turns with messages of ``--tokens`` tokens and their log-probs; its
conversations share 50 user contexts. Each number has a process of its own; ``mib`` is its most memory above its start.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from launch.adversarial.simulation import simulate
from launch.run.config.run import CollectConfig
from rlenv.core.types import ConversationState, Utterance
from rlenv.env.conversation import Limits
from rlenv.population.corpus import generate_sessions

CONTEXTS = 50


class Speaking:
    """A speaker with tokens and without a model."""

    def __init__(self, name: str, tokens: int) -> None:
        self.name, self.tokens = name, tokens

    async def reply(self, state: ConversationState, seed: int) -> Utterance:
        """Returns the next message, as long as any."""
        draw = random.Random(seed)
        ids = tuple(draw.randrange(1000, 50_000) for _ in range(self.tokens))
        return Utterance(text=f"{seed} " * 10, token_ids=ids, logprobs=tuple(draw.random() for _ in ids))


def run(sessions: int, args: argparse.Namespace) -> dict[str, float]:
    """Returns the most memory above the start in MiB, and the CPU seconds."""
    import psutil

    contexts = generate_sessions(CONTEXTS, 1, args.seed)
    parts = {"adversarial": contexts[: CONTEXTS // 2], "evaluation": contexts[CONTEXTS // 2 :]}
    config = CollectConfig(simulations_per_context=sessions // CONTEXTS)
    user, bots = Speaking("user", args.tokens), {"bot": Speaking("bot", args.tokens)}
    before, began = psutil.Process().memory_info().rss, time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "simulated"
        simulate(out, "sessions", "base", user, bots, parts, config, Limits(max_turns=args.turns), args.seed)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"mib": round((peak - before) / 2**20, 1), "cpu_s": round(time.process_time() - began, 1)}


def main() -> None:
    """Measures each number of sessions and prints the line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sessions", default="1000,4000")
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--tokens", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", type=int)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(run(args.child, args)))
        return
    found = {}
    numbers = [int(number) for number in args.sessions.split(",")]
    for number in numbers:
        command = [sys.executable, __file__, "--child", str(number)]
        command += [part for name in ("turns", "tokens", "seed") for part in (f"--{name}", str(getattr(args, name)))]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found[number] = json.loads(done.stdout.splitlines()[-1])
    fewest, most = numbers[0], numbers[-1]
    line = {
        "benchmark": "sessions_memory",
        "value": round(1024 * (found[most]["mib"] - found[fewest]["mib"]) / (most - fewest), 2),
        "unit": "KiB a session",
        "sessions": found,
        "settings": {name: value for name, value in vars(args).items() if name != "child"},
        "machine": {"cpus": os.cpu_count(), "processor": platform.machine(), "load": os.getloadavg()[0]},
        "versions": {"python": platform.python_version(), "rlenv": version("rlenv")},
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
