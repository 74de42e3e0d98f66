"""Turns that SFT trains a second: one pass over a session for all its turns, and one example a user turn.

    python tests/benchmarks/bench_sft.py [--model population-llama|smollm2|FOLDER] [--sessions 32]

Prints one JSON line. ``value`` is the user turns a second of forward, backward and update with the project's rows,
``baseline`` that with a row for each turn which ends with it and whose other tokens have no loss; ``speedup`` is the
one over the other. Both compute logits only where there is a loss, take ``--batch-size`` rows at a time sorted by
length, and start from the same adapter; ``loss_difference`` is that of the mean loss of a token before any update.
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
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlenv.models.named import named_model
from rlenv.population.corpus import generate_sessions
from rlenv.prompting.chat_format import chat_format
from trainers.sft.config import SftExample
from trainers.sft.fit import own_positions, sft_rows

Row = dict[str, list[int]]


def turn_rows(rows: list[Row]) -> list[Row]:
    """Returns a row for each run of labelled tokens, which ends with it."""
    found = []
    for row in rows:
        labels = [*row["labels"], -100]
        starts = [i for i in range(1, len(labels)) if labels[i] != -100 and labels[i - 1] == -100]
        for start in starts:
            end = next(i for i in range(start, len(labels)) if labels[i] == -100)
            found.append({"input_ids": row["input_ids"][:end], "labels": [-100] * start + labels[start:end]})
    return found


def total_loss(model: Any, rows: list[Row]) -> torch.Tensor:
    """Returns the summed loss of the rows' labelled tokens."""
    batch = own_positions(rows)
    labels = batch.pop("shift_labels")
    logits = model(**{k: v for k, v in batch.items() if k != "labels"}, use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten(), reduction="sum")


def train(folder: str, rows: list[Row], batch_size: int, seed: int) -> tuple[float, float]:
    """Returns the seconds of one epoch, and the mean loss of a token before it."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model = get_peft_model(model, LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-3)
    rows = sorted(rows, key=lambda row: len(row["input_ids"]))
    batches = [rows[i : i + batch_size] for i in range(0, len(rows), batch_size)]
    with torch.no_grad():
        loss = sum(float(total_loss(model, batch)) for batch in batches)
    tokens = sum(label != -100 for row in rows for label in row["labels"])
    start = time.perf_counter()
    for batch in batches:
        (total_loss(model, batch) / tokens).backward()
        optimizer.step()
        optimizer.zero_grad()
    return time.perf_counter() - start, loss / tokens


def main() -> None:
    """Measures both ways and prints the line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="population-llama")
    parser.add_argument("--sessions", type=int, default=32)
    parser.add_argument("--context-tokens", type=int, default=400)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as cache:
        folder = str(named_model(args.model, Path(cache)) or args.model)
        chat = chat_format(AutoTokenizer.from_pretrained(folder))
        context = "what is known of the user " * (args.context_tokens // 6)
        sessions = generate_sessions(args.sessions, 1, args.seed)
        examples = [SftExample(session_id=s.session_id, system=context, messages=s.messages) for s in sessions]
        whole, _ = sft_rows(examples, chat, None)
        rows = {"sessions": whole, "turns": turn_rows(whole)}
        seconds: dict[str, list[float]] = {name: [] for name in rows}
        losses = {}
        for number in range(args.rounds):
            for name in sorted(rows, reverse=number % 2 == 1):
                spent, losses[name] = train(folder, rows[name], args.batch_size, args.seed)
                seconds[name].append(spent)
    turns = len(rows["turns"])
    value, baseline = (round(turns / statistics.median(seconds[name]), 2) for name in ("sessions", "turns"))
    line = {
        "benchmark": "sft",
        "value": value,
        "unit": "turns/s",
        "baseline": baseline,
        "speedup": round(value / baseline, 2),
        "loss_difference": abs(losses["sessions"] - losses["turns"]),
        "turns": turns,
        "tokens_a_session": round(statistics.mean(len(row["input_ids"]) for row in whole)),
        "settings": vars(args),
        "machine": {"cpus": os.cpu_count(), "processor": platform.machine(), "load": os.getloadavg()[0]},
        "versions": {
            "python": platform.python_version(),
            **{p: version(p) for p in ("rlenv", "torch", "transformers")},
        },
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
