"""What is to be measured on one H100, part by part: a run's phases with the GPU's busy share, and DPO at 8B's size.

    python tests/benchmarks/gpu.py [--small] [--parts phases,dpo_4000,...] [--data FILE] [--out gpu-results]

Prints a JSON line for each part and appends it to ``OUT/results.jsonl``; each has a time limit, and one that fails or
is stopped leaves the others alone. ``--small`` runs the same script with tiny sizes on a CPU, in about six minutes.

phases      conf/esconv_h100.yaml until base's preferences: conversations, discriminators, preferences. Seconds of each
            phase and, from nvidia-smi once a second, how busy the GPU was in it. Without ``--data`` (ESConv's
            sessions), with as many sessions of the reference population.
dpo_4000    bench_dpo.py with a Llama of 8B's shape and random weights: two replies to a prompt of 4,000 tokens, read as
            a tree, and as TRL's two rows; seconds and peak memory of a step. dpo_12000 the same at 12,000. blocks_4000
            and blocks_12000 the same with block masks (FlexAttention), which a small run leaves dense.
starts      bench_engine_start.py: an engine's start and speed without compiling, with it, and with few CUDA graphs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from launch.run.timings import read_timings

ROOT = Path(__file__).parents[2]
MEASURED = ("base/simulated", "base/discriminator", "base/preferences")
LAST = MEASURED[-1]
STOP_S = 60.0
SMALL = [
    "simulator.model=population-llama",
    "backbone=population-llama",
    "simulator.adapter=null",
    "data.population.num_users=60",
    "sft.epochs=1",
    "chatbots.supporter.adapter=null",
    "engines.simulator.backend=transformers",
    "engines.simulator.num_gpus=0",
    "engines.simulator.num_cpus=0.5",
    "engines.simulator.threads=1",
    "simulator.sampling.max_tokens=16",
    "chatbots.supporter.sampling.max_tokens=16",
    "env.max_turns=2",
    "data.min_user_turns=1",
    "collect.num_contexts=16",
    "discriminator.num_train_sessions=20",
    "discriminator.num_validation_sessions=12",
    "discriminator.num_control_sessions=20",
    "preferences.num_turns=1",
    "train.num_gpus=0",
    "train.num_cpus=0.5",
    "train.threads=1",
    "train.keep_workers=true",
    "scoring.num_gpus=0",
    "scoring.num_cpus=0.5",
    "scoring.threads=1",
    "ray.num_cpus=4",
]


class GpuClock:
    """Samples nvidia-smi once a second: (unix time, busy percent, MiB in use). Without a GPU it has no samples."""

    def __init__(self) -> None:
        self.samples: list[tuple[float, float, float]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> GpuClock:
        if shutil.which("nvidia-smi"):
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(5)

    def _sample(self) -> None:
        query = ["nvidia-smi", "--query-gpu=utilization.gpu,memory.used", "--format=csv,noheader,nounits", "--id=0"]
        while not self._ended.wait(1.0):
            done = subprocess.run(query, capture_output=True, text=True, check=False)
            numbers = done.stdout.replace(",", " ").split()
            if done.returncode == 0 and len(numbers) == 2:
                self.samples.append((time.time(), float(numbers[0]), float(numbers[1])))

    def busy(self, began: float, ended: float) -> float | None:
        """Returns the mean share in [0, 1] of a time; None without samples."""
        found = [percent for when, percent, _ in self.samples if began <= when <= ended]
        return round(statistics.mean(found) / 100, 3) if found else None


def phases(args: argparse.Namespace, out: Path, limit_s: float) -> dict[str, Any]:
    """Runs Algorithm 1 until base's preferences; returns seconds and busy share of its phases."""
    run = out / "run"
    command = [sys.executable, "-m", "launch", "adversarial", "conf/esconv_h100.yaml", f"out_dir={run}"]
    command += ["num_iterations=1", "further_sft=never", "accept=always", "stop=never"]
    command += [f"data.path={args.data}"] if args.data else []
    command += SMALL if args.small else [] if args.data else ["data.population.num_users=1300"]
    with GpuClock() as gpu, open(out / "phases.log", "w") as log:
        driver = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True, env=environment())
        deadline = time.time() + limit_s
        while driver.poll() is None and time.time() < deadline and not (run / LAST).is_dir():
            time.sleep(0.5)
        ended = "done" if (run / LAST).is_dir() else "stopped" if driver.poll() is None else "failed"
        end(driver)
    seconds, busy = {}, {}
    for timing in read_timings(run):
        seconds[timing.phase] = timing.seconds
        busy[timing.phase] = gpu.busy(timing.ended - timing.seconds, timing.ended)
    measured = [name for name in MEASURED if busy.get(name) is not None]
    total = sum(seconds.get(name, 0.0) for name in MEASURED)
    return {
        "value": round(total, 1) if ended == "done" else None,
        "unit": "s",
        "ended": ended,
        "busy": round(sum(busy[n] * seconds[n] for n in measured) / total, 3) if measured else None,
        "seconds": seconds,
        "busy_by_phase": busy,
        "gpu_mib": max((mib for _, _, mib in gpu.samples), default=None),
        **({} if ended == "done" else {"last_lines": tail(out / "phases.log")}),
    }


def dpo(tokens: int, blocks: bool = False) -> Callable[[argparse.Namespace, Path, float], dict[str, Any]]:
    """Returns the part that compares DPO's two ways at ``tokens`` tokens of prompt."""

    def measured(args: argparse.Namespace, out: Path, limit_s: float) -> dict[str, Any]:
        command = ["bench_dpo.py", "--pairs", "1", "--checkpointing"]
        if args.small:
            command += ["--model", "tiny", "--tokens", str(tokens // 40), "--steps", "2", "--rounds", "1"]
        else:
            command += ["--model", "8b", "--tokens", str(tokens), "--steps", "4", "--rounds", "1"]
            command += ["--dtype", "bfloat16", "--device", "cuda"]
            command += ["--blocks-from", "1"] if blocks else []
        return benchmark(command, out / f"{'blocks' if blocks else 'dpo'}_{tokens}.log", limit_s)

    return measured


def starts(args: argparse.Namespace, out: Path, limit_s: float) -> dict[str, Any]:
    """Compares the starts of an engine."""
    command = ["bench_engine_start.py"]
    if args.small:
        command += ["--requests", "8", "--tokens", "20"]
    else:
        command += ["--model", "smollm2", "--num-gpus", "1", "--requests", "256", "--tokens", "200"]
    return benchmark(command, out / "starts.log", limit_s)


def benchmark(command: list[str], log: Path, limit_s: float) -> dict[str, Any]:
    """Runs a benchmark of this folder; returns its line, or how it ended without one."""
    python = [sys.executable, f"tests/benchmarks/{command[0]}", *command[1:]]
    with open(log, "w") as file:
        child = subprocess.Popen(
            python, cwd=ROOT, stdout=subprocess.PIPE, stderr=file, text=True, start_new_session=True, env=environment()
        )
        try:
            text, _ = child.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            end(child)
            return {"value": None, "ended": "stopped"}
    if child.returncode:
        return {"value": None, "ended": "failed", "last_lines": tail(log)}
    found = json.loads(text.splitlines()[-1])
    return {"ended": "done"} | {name: value for name, value in found.items() if name not in ("benchmark", "machine")}


def environment() -> dict[str, str]:
    """Returns the environment of a part's processes, which find the code here."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}


def end(process: subprocess.Popen[Any]) -> None:
    """Ends a part: first by SIGTERM, on which a driver stops its engines, then by force with all its processes."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def tail(path: Path, lines: int = 8) -> list[str]:
    """Returns the last lines of a log."""
    return path.read_text(errors="replace").splitlines()[-lines:]


PARTS: dict[str, tuple[Callable[[argparse.Namespace, Path, float], dict[str, Any]], float, float]] = {
    "phases": (phases, 420.0, 240.0),
    "dpo_4000": (dpo(4000), 120.0, 90.0),
    "dpo_12000": (dpo(12_000), 240.0, 90.0),
    "blocks_4000": (dpo(4000, blocks=True), 150.0, 90.0),
    "blocks_12000": (dpo(12_000, blocks=True), 240.0, 90.0),
    "starts": (starts, 400.0, 240.0),
}
"""Each part with its limit in seconds, on the GPU and small."""


def machine() -> dict[str, Any]:
    """Returns what the figures hold for."""
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    gpu = None
    if shutil.which("nvidia-smi"):
        gpu = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
    return {"cpus": os.cpu_count(), "gpu": gpu, "load": os.getloadavg()[0]}


def main() -> None:
    """Runs the parts and prints their lines."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--data", help="ESConv as sessions, from rlenv import esconv")
    parser.add_argument("--patience", type=float, default=1.0, help="times the limits, for a busy machine")
    parser.add_argument("--out", type=Path, default=Path("gpu-results"))
    args = parser.parse_args()
    out = args.out.resolve()
    shutil.rmtree(out / "run", ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    for name in args.parts.split(","):
        measure, on_gpu_s, small_s = PARTS[name]
        limit_s, began = args.patience * (small_s if args.small else on_gpu_s), time.time()
        try:
            found = measure(args, out, limit_s)
        except Exception as error:
            found = {"value": None, "ended": "failed", "last_lines": [f"{type(error).__name__}: {error}"]}
        line = {"benchmark": f"gpu_{name}", **found, "wall_s": round(time.time() - began, 1), "limit_s": limit_s}
        line |= {"small": args.small, "machine": machine()}
        text = json.dumps(line)
        print(text, flush=True)
        with open(out / "results.jsonl", "a") as file:
            file.write(text + "\n")


if __name__ == "__main__":
    main()
