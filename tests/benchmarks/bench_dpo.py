"""Time and memory of a DPO step on pairs that share a conversation: ours, and TRL's own rows of prompt and reply.

    python tests/benchmarks/bench_dpo.py [--model population-llama|smollm2|FOLDER|8b|wide|tiny] [--tokens 1000]

Prints one JSON line. ``value`` is the seconds of a step (the median, forward, backward and update), ``baseline`` TRL's,
``speedup`` the one over the other. ``peak_mib`` is how far resident memory rises above the loaded model in a training.
A step trains ``--sessions`` sessions with ``--pairs`` pairs each at evenly spaced turns, the last at ``--tokens``, with
replies of ``--reply-tokens``. As many sessions have one context, a quarter of ``--tokens``, which is read with each of
them. Tokens are random. Both trainers take the same pairs in the same order, in processes of their own that take turns
(``--rounds``); ``loss_difference`` is the largest between their curves. ``8b``, ``wide`` and ``tiny`` are Llamas of
that shape with random weights; ``wide`` has the layers of population-llama and SmolLM2's vocabulary. With ``--device
cuda``, memory is what PyTorch allocates there. Where a trainer fails, for example for lack of memory, the line says so
in its place.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rlenv.models.attention import take_block_masks
from rlenv.models.named import named_model, population_llama

ROOT = Path(__file__).parents[2]
MIB = 1024**2
SHAPES = {
    "8b": {"hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32, "num_attention_heads": 32,
           "num_key_value_heads": 8, "vocab_size": 128_256},
    "wide": {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 3,
             "num_key_value_heads": 3, "vocab_size": 49_152},
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
             "num_key_value_heads": 2, "vocab_size": 4096},
}  # fmt: skip
"""Llama-3's shape, population-llama's with SmolLM2's vocabulary, and one to try this file with."""


def make_pairs(args: argparse.Namespace, vocab_size: int) -> dict[str, list[list[int]]]:
    """Returns ``prompt_ids``, ``chosen_ids`` and ``rejected_ids`` of the sessions of all steps."""
    import numpy as np

    rng = np.random.default_rng(args.seed)

    def drawn(length: int) -> list[int]:
        return rng.integers(10, vocab_size, length).tolist()

    rows: dict[str, list[list[int]]] = {"prompt_ids": [], "chosen_ids": [], "rejected_ids": []}
    for _ in range(args.steps):
        context = drawn(args.tokens // 4)
        for _ in range(args.sessions):
            prompt = context + drawn(args.tokens - len(context))
            for turn in range(1, args.pairs + 1):
                rows["prompt_ids"].append(prompt[: args.tokens * turn // args.pairs])
                for key in ("chosen_ids", "rejected_ids"):
                    rows[key].append(drawn(args.reply_tokens))
    return rows


def load(args: argparse.Namespace) -> Any:
    """Returns the model on its device."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    dtype = getattr(torch, args.dtype)
    if args.model not in SHAPES:
        return AutoModelForCausalLM.from_pretrained(args.model, dtype=dtype).to(args.device)
    longest = args.tokens + args.reply_tokens
    torch.set_default_dtype(dtype)
    with torch.device(args.device):
        model = LlamaForCausalLM(LlamaConfig(**SHAPES[args.model], max_position_embeddings=longest, use_cache=False))
    torch.set_default_dtype(torch.float32)
    return model


def train(args: argparse.Namespace) -> dict[str, Any]:
    """Trains with ``args.child``, ``ours`` or ``trl``; returns seconds and loss of each step, and the memory."""
    import psutil
    import torch
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from transformers import AutoTokenizer, TrainerCallback
    from trl import DPOTrainer

    from trainers.backend.worker import Worker
    from trainers.dpo.config import DpoConfig
    from trainers.dpo.fit import dpo_arguments
    from trainers.dpo.pairs import PairsTrainer, SessionSampler, sessions_of

    class RowsTrainer(DPOTrainer):
        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

        def _get_train_sampler(self, train_dataset: Any = None) -> SessionSampler:
            return SessionSampler(sessions_of(self.train_dataset["prompt_ids"]), self.args.seed)

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.seconds: list[float] = []

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.start = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            if on_gpu:
                torch.cuda.synchronize()
            self.seconds.append(time.perf_counter() - self.start)

    on_gpu = args.device != "cpu"
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    model = load(args)
    model.config.use_cache = False
    ours = args.child == "ours"
    if ours:
        take_block_masks(model, args.blocks_from)
    policy = get_peft_model(model, LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    config = DpoConfig(
        dtype=args.dtype, batch_size=args.pairs * args.sessions, learning_rate=1e-3, warmup=0, save_every=0,
        gradient_checkpointing=args.checkpointing, blocks_from=args.blocks_from,
    )  # fmt: skip
    tokenizer = str(population_llama()) if args.model in SHAPES else args.model
    clock = Clock()
    with tempfile.TemporaryDirectory() as scratch:
        trainer = (PairsTrainer if ours else RowsTrainer)(
            model=policy,
            args=dpo_arguments(Worker(Path(scratch), device=args.device), config),
            train_dataset=Dataset.from_dict(make_pairs(args, model.config.vocab_size)),
            processing_class=AutoTokenizer.from_pretrained(tokenizer),
            callbacks=[clock],
            **({"blocks_from": config.blocks_from} if ours else {}),
        )
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        loaded = torch.cuda.memory_allocated() if on_gpu else psutil.Process().memory_info().rss
        trainer.train()
    peak = torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {"seconds": clock.seconds, "losses": losses, "peak_mib": (peak - loaded) / MIB}


def child(args: argparse.Namespace, way: str) -> dict[str, Any]:
    """Returns what :func:`train` does, from a process of its own; the error if it fails."""
    command = [sys.executable, __file__, "--child", way, *(["--checkpointing"] if args.checkpointing else [])]
    for name, value in vars(args).items():
        if name not in ("child", "checkpointing") and value is not None:
            command += [f"--{name.replace('_', '-')}", str(value)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1][:300]}
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Measures both trainers and prints the line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="population-llama")
    parser.add_argument("--tokens", type=int, default=1000)
    parser.add_argument("--reply-tokens", type=int, default=30)
    parser.add_argument("--pairs", type=int, default=2, help="of a session")
    parser.add_argument("--sessions", type=int, default=1, help="of a step")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing")
    parser.add_argument("--blocks-from", type=int, help="dpo.blocks_from of ours; training needs a GPU for it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", choices=["ours", "trl"])
    args = parser.parse_args()
    if args.child:
        print(json.dumps(train(args)))
        return
    settings = {name: value for name, value in vars(args).items() if name != "child"}
    with tempfile.TemporaryDirectory() as cache:
        args.model = str(named_model(args.model, Path(cache)) or args.model)
        found: dict[str, list[dict[str, Any]]] = {"ours": [], "trl": []}
        for number in range(args.rounds):
            for way in sorted(found, reverse=number % 2 == 1):
                found[way].append(child(args, way))
    failed = {way: each["failed"] for way, rounds in found.items() for each in rounds if "failed" in each}
    done = {way: [] if way in failed else rounds for way, rounds in found.items()}
    seconds = {  # the first step of a process is not counted
        way: round(statistics.median(s for each in rounds for s in each["seconds"][1:]), 4) if rounds else None
        for way, rounds in done.items()
    }
    memory = {
        way: round(statistics.median(each["peak_mib"] for each in rounds)) if rounds else None
        for way, rounds in done.items()
    }
    ours, theirs = (rounds[0]["losses"] if rounds else [] for rounds in (done["ours"], done["trl"]))
    both = not failed
    line = {
        "benchmark": "dpo",
        "value": seconds["ours"],
        "unit": "s a step",
        "baseline": seconds["trl"],
        "speedup": round(seconds["trl"] / seconds["ours"], 2) if both else None,
        "peak_mib": memory,
        "loss_difference": max(abs(one - other) for one, other in zip(ours, theirs, strict=True)) if both else None,
        "failed": failed,
        "settings": settings,
        "machine": {"cpus": os.cpu_count(), "processor": platform.machine(), "load": os.getloadavg()[0]},
        "versions": {"python": platform.python_version(), **{p: version(p) for p in ("rlenv", "torch", "trl")}},
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
