"""Time in which the alternatives of critical turns are scored: as branches of their session, and as rows of their own.

    python tests/benchmarks/bench_scoring.py [--model population-llama|smollm2|FOLDER] [--sessions 64]

Prints one JSON line. ``value`` is the milliseconds of a session (the median of ``--rounds``) in which a ``likelihood``
discriminator's reader reads it and eight alternatives at two turns, ``baseline`` those with one full row an
alternative, eight rows at a time; ``speedup`` is the one over the other. The messages are the reference population's,
the alternatives those of other sessions; ``difference`` is the largest between the log-probs of the two ways.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlenv.core.types import Session
from rlenv.discriminator.reading import Reader, ReadRow, Texts, read_row
from rlenv.models.named import named_model
from rlenv.population.corpus import generate_sessions
from rlenv.prompting.chat_format import chat_format

ALTERNATIVES = 8


def branched(reader: Reader, rows: list[ReadRow], branches: list[Texts]) -> np.ndarray:
    """Returns the log-prob of each alternative, read in the row of its session."""
    readings = reader.read(rows, branches)
    return np.array([each.log_prob.sum() for r in readings for turn in r.branches for each in turn])


def in_rows(reader: Reader, rows: list[ReadRow], branches: list[Texts]) -> np.ndarray:
    """Returns the same from a row for each session and for each alternative, those of a turn in one batch."""
    found: list[float] = []
    with torch.no_grad():
        for row, each in zip(rows, branches, strict=True):
            reader.read([row])
            for turn, texts in each:
                replies = [reader.chat.reply_ids(text) for text in texts]
                prompt = list(row.ids[: row.starts[turn - 1]])
                width = len(prompt) + max(map(len, replies))
                ids = torch.tensor([[*prompt, *r, *[0] * (width - len(prompt) - len(r))] for r in replies])
                logits = reader.model(input_ids=ids, use_cache=False).logits[:, len(prompt) - 1 : -1].log_softmax(-1)
                for i, reply in enumerate(replies):
                    found.append(float(logits[i, torch.arange(len(reply)), torch.tensor(reply)].sum()))
    return np.array(found)


def work(reader: Reader, sessions: list[Session], turns: int, context: str) -> tuple[list[ReadRow], list[Texts]]:
    """Returns the sessions' rows, and alternatives at the middle and the last of ``turns`` turns."""
    rows = [read_row(reader.chat, session.messages, context, 8192) for session in sessions]
    said = [text for row in rows for text in row.texts]
    branches: list[Texts] = []
    for number, row in enumerate(rows):
        others = [[said[(number * 31 + 7 * place + i) % len(said)] for i in range(ALTERNATIVES)] for place in range(2)]
        branches.append(list(zip((max(1, len(row.ends) // 2), len(row.ends)), others, strict=True)))
    return rows, branches


def main() -> None:
    """Measures both ways and prints the line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="population-llama")
    parser.add_argument("--sessions", type=int, default=64)
    parser.add_argument("--turns", type=int, default=10)
    parser.add_argument("--context-tokens", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as cache:
        folder = named_model(args.model, Path(cache)) or args.model
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        reader = Reader(model, chat_format(AutoTokenizer.from_pretrained(folder)))
        sessions = [
            s for s in generate_sessions(4 * args.sessions, 1, args.seed) if len(s.user_messages()) >= args.turns
        ]
        context = "what is known of the user " * (args.context_tokens // 6)
        rows, branches = work(reader, sessions[: args.sessions], args.turns, context)
        seconds: dict[str, list[float]] = {"branches": [], "rows": []}
        for number in range(args.rounds):
            found = {}
            for name, way in sorted({"branches": branched, "rows": in_rows}.items(), reverse=number % 2 == 1):
                start = time.perf_counter()
                found[name] = way(reader, rows, branches)
                seconds[name].append(1000 * (time.perf_counter() - start) / len(rows))
    value, baseline = (round(statistics.median(seconds[name]), 2) for name in ("branches", "rows"))
    line = {
        "benchmark": "scoring",
        "value": value,
        "unit": "ms a session",
        "baseline": baseline,
        "speedup": round(baseline / value, 2),
        "difference": float(np.abs(found["branches"] - found["rows"]).max()),
        "tokens_a_session": round(statistics.mean(len(row.ids) for row in rows)),
        "settings": {**vars(args), "sessions": len(rows)},
        "machine": {"cpus": os.cpu_count(), "processor": platform.machine(), "load": os.getloadavg()[0]},
        "versions": {
            "python": platform.python_version(),
            **{p: version(p) for p in ("rlenv", "torch", "transformers")},
        },
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
