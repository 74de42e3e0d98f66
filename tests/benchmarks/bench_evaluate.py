"""CPU seconds of ``rlenv evaluate`` the first time and again, and the peak memory of a large corpus.

    python tests/benchmarks/bench_evaluate.py [--sessions 100] [--corpus 16000] [--embed-sessions 50] [--seed 0]

Prints one JSON line. ``value`` is what a second evaluation of a run takes (four versions of ``--sessions`` population
sessions each, and as many real ones), ``baseline`` the first, which embeds them, and ``ratio`` the one over the other.
``corpus_cpu_s`` and ``corpus_peak_gb`` are of one file of ``--corpus`` sessions against another, without embeddings,
whose cost does not grow with the corpus; 0 leaves that out. Sessions of the corpus repeat 400 of the population with a
word of their own.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from rlenv.core.types import Session
from rlenv.data.sessions import write_sessions
from rlenv.population.corpus import generate_sessions

VERSIONS = ("base", "it1", "it2", "it3")
ROOT = Path(__file__).parents[2]


def write_run(root: Path, num: int, seed: int) -> Path:
    """Returns a run directory with what an evaluation reads."""
    real = generate_sessions(num, 1, seed)
    write_sessions(root / "data/evaluation.jsonl.gz", real)
    for place, name in enumerate(VERSIONS, 1):
        made = [
            s.model_copy(update={"part": "evaluation", "context_id": r.session_id, "session_id": f"{r.session_id}#0"})
            for r, s in zip(real, generate_sessions(num, 1, seed + place), strict=True)
        ]
        write_sessions(root / name / "simulated/sessions.jsonl", made)
    return root


def corpus(num: int, seed: int) -> Iterator[Session]:
    """Yields sessions with an id, a user and a first word of their own."""
    some = generate_sessions(min(num, 400), 1, seed)
    for i in range(num):
        session = some[i % len(some)]
        first, *rest = session.messages
        first = first.model_copy(update={"content": f"{first.content} n{seed}x{i}"})
        changes = {"session_id": f"{seed}-{i}", "user_id": f"u{seed}-{i}", "messages": (first, *rest)}
        yield session.model_copy(update=changes)


def evaluate(*arguments: object) -> tuple[float, float]:
    """Returns the CPU seconds and the peak memory in GB of the command, run as a process of its own."""
    command = [sys.executable, "-m", "launch", "evaluate", *map(str, arguments)]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"rlenv evaluate ended with {child.returncode}")
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=100)
    parser.add_argument("--corpus", type=int, default=16000)
    parser.add_argument("--embed-sessions", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    found: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        run = write_run(root / "run", asked.sessions, asked.seed)
        options = ("--embed-sessions", asked.embed_sessions)
        first, first_gb = evaluate(run, *options, "--out", root / "first")
        second, second_gb = evaluate(run, *options, "--out", root / "second")
        assert (root / "first/metrics.json").read_bytes() == (root / "second/metrics.json").read_bytes()
        if asked.corpus:
            for name, seed in (("real", asked.seed), ("simulated", asked.seed + 1)):
                write_sessions(root / f"{name}.jsonl.gz", corpus(asked.corpus, seed))
            sides = (root / "simulated.jsonl.gz", "--real", root / "real.jsonl.gz")
            cpu_s, peak_gb = evaluate(*sides, "--no-embeddings", "--out", root / "corpus")
            found = {"corpus": asked.corpus, "corpus_cpu_s": round(cpu_s, 1), "corpus_peak_gb": round(peak_gb, 2)}
    line = {
        "benchmark": "evaluate",
        "value": round(second, 1),
        "unit": "CPU seconds",
        "baseline": round(first, 1),
        "ratio": round(second / first, 3),
        "peak_gb": [round(first_gb, 2), round(second_gb, 2)],
        "sessions": asked.sessions,
        "embed_sessions": asked.embed_sessions,
        **found,
        "machine": {"cpus": os.cpu_count(), "processor": platform.processor() or platform.machine()},
        "versions": {name: version(name) for name in ("numpy", "scipy", "torch", "transformers", "sacrebleu")},
        "seed": asked.seed,
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
