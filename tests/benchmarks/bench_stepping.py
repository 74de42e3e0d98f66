"""Turns per CPU second of the env and its speakers where engines cost next to nothing, in one process.

    python tests/benchmarks/bench_stepping.py [--context-tokens 12000] [--seed 0]

Prints one JSON line. A turn is a message of each seat. ``stand_ins`` are scripted speakers, ``population`` the
synthetic users with a scripted chatbot, both without a model; ``engine`` and ``engine_long`` are model speakers in both
seats on a scripted engine, whose replies take no time: with a short user context, and with one of
``--context-tokens``. The ``value`` is that of ``engine_long``, in CPU milliseconds a turn: what the driver spends on a
turn at the paper's size.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version

from rlenv.core.protocols import Speaker
from rlenv.core.types import Message, Sampling, SessionContext
from rlenv.env.collect import Episode, collect
from rlenv.env.conversation import Limits
from rlenv.env.core import ConversationCore
from rlenv.env.providers import env_parts
from rlenv.env.scenarios import Scenario
from rlenv.prompting.chat_format import ChatFormat, chat_format
from rlenv.prompting.context import ContextConfig
from rlenv.prompting.system_texts import chatbot_system_text, simulator_system_text, token_counter
from rlenv.speakers.engine import EngineSpeaker
from rlenv.speakers.scripted import EngineScript, ScriptedChatbot, ScriptedEngine, ScriptedUser
from trainers.pretrain.loop import train_tokenizer

LIMITS = Limits(max_turns=25)
SAID = "I sleep badly and it is mostly work, I think. "


def context(number: int, tokens: int) -> SessionContext:
    """Returns a user context of about ``tokens`` tokens, half of it earlier messages."""
    words = SAID * (tokens // 26 // 40)
    earlier = tuple(Message(role=("user", "assistant")[i % 2], content=f"{words}{i}") for i in range(20))
    return SessionContext(profile=f"{SAID}{number}", long_term_context=words * 20, recent_sessions=(earlier,))


def measure(
    agent: Speaker, counterparts: Mapping[str, Speaker], scenarios: Sequence[Scenario], seed: int, times: int = 4
) -> float:
    """Returns the CPU milliseconds of a turn, over some conversations with each scenario."""
    core = ConversationCore(scenarios, counterparts, "chatbot", LIMITS)
    plan = [
        Episode(episode_id=f"e{i}", context_id=s.context_id, counterpart=next(iter(counterparts)), seed=seed + i)
        for i, s in enumerate([*scenarios] * times)
    ]

    async def turns() -> int:
        return sum([len(result.rewards) async for result in collect(agent, core.sibling, plan, concurrency=64)])

    began = time.process_time()
    number = asyncio.run(turns())
    return 1000 * (time.process_time() - began) / number


def model_speakers(chat: ChatFormat) -> tuple[EngineSpeaker, EngineSpeaker]:
    """Returns a chatbot and a user on one scripted engine."""
    plain = [i for i in range(len(chat.tokenizer)) if i not in chat.tokenizer.all_special_ids]
    engine = ScriptedEngine(plain, EngineScript(mean_tokens=30, end_rate=0.02))
    count, config, sampling = token_counter(chat), ContextConfig(), Sampling(max_tokens=60)
    user = EngineSpeaker("user", engine, chat, "user", simulator_system_text(config, count), sampling)
    return EngineSpeaker("chatbot", engine, chat, "chatbot", chatbot_system_text(config, count), sampling), user


def main() -> None:
    """Measures each and prints the line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--context-tokens", type=int, default=12_000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    chat = chat_format(train_tokenizer([f"{SAID} user assistant system"] * 3, 400, 32_768))
    sizes = {"short": 0, "long": args.context_tokens}
    scenarios = {
        size: [
            Scenario(context_id=f"c{i}", user_id=f"u{i}", context=context(i, n), opener="assistant") for i in range(16)
        ]
        for size, n in sizes.items()
    }
    free: dict[str, Speaker] = {"user": ScriptedUser(leave_rate=0.02)}
    chatbot, user = model_speakers(chat)
    population = env_parts("chatbot")
    found = {
        "stand_ins": measure(ScriptedChatbot(), free, scenarios["short"], args.seed, 40),
        "population": measure(ScriptedChatbot(), population.counterparts, population.scenarios[:16], args.seed, 10),
        "engine": measure(chatbot, {"user": user}, scenarios["short"], args.seed),
        "engine_long": measure(chatbot, {"user": user}, scenarios["long"], args.seed),
    }
    line = {
        "benchmark": "stepping",
        "value": round(found["engine_long"], 3),
        "unit": "CPU ms a turn",
        **{name: {"cpu_ms": round(ms, 3), "turns_per_cpu_s": round(1000 / ms)} for name, ms in found.items()},
        "settings": {**vars(args), "max_turns": LIMITS.max_turns},
        "machine": {"cpus": os.cpu_count(), "processor": platform.machine(), "load": os.getloadavg()[0]},
        "versions": {"python": platform.python_version(), **{p: version(p) for p in ("rlenv", "tokenizers", "numpy")}},
        "seed": args.seed,
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
