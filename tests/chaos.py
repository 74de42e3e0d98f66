"""Kills random processes of a tiny run at random moments; its files must be those of an undisturbed one.

    python -m tests.chaos --kills 100 --seed 0

The run starts Ray and trains for real, on the CPU. Victims are the driver, the raylet, and every process of Ray that
works: engines, scorers, workers of a training and its controller. A driver that ends early must have said why in a
sentence, and is started again; when a run has ended, its files are compared, and another begins while kills are left.
Prints each kill, and at the end one line of JSON. The exit code is 1 if a file differs or a driver ended in a
traceback.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil
import yaml

from launch.reports.verify import verify
from tests.launch.adversarial.test_flow import files
from tests.launch.conftest import TINY, Driver, left_of, merged

PAUSE = (0.02, 0.15)
"""Least and longest time between two kills, in lengths of the undisturbed run."""
EARLY = 0.2
"""Share of the drivers in whose start a first kill may fall; the others begin a phase first, or no run would end."""
A_PHASE = 4
"""Kills within a phase of a run, after which it is left in peace until the next: else all fall into the longest."""
AGENTS_S = 5.0
"""How long a dead driver's processes may live on; Ray's agents notice a dead raylet after a minute or two."""
PATIENCE_S = 1800.0
"""Longest time without the end of a driver or a kill."""


def name_of(process: psutil.Process) -> str | None:
    """Returns what a victim is called; None for processes that are none."""
    try:
        command = " ".join(process.cmdline())
    except psutil.Error:
        return None
    if "raylet/raylet" in command or command.startswith("raylet"):
        return "raylet"
    if command.startswith("ray::") and "IDLE" not in command:
        return command.removeprefix("ray::").split(".")[0].split("(")[0].split()[0]
    return "EngineCore" if "EngineCore" in command else None


def strike(driver: Driver, rng: random.Random) -> str | None:
    """Kills a random victim; returns what it was, or None if there was none."""
    named = [(name_of(process), process) for process in driver.family()]
    kinds = sorted({name for name, _ in named if name} | {"driver"})
    kind = rng.choice(kinds)
    if kind == "driver":
        left_of(driver.kill(), AGENTS_S)
        return kind
    victims = sorted((p for name, p in named if name == kind), key=lambda p: p.pid)
    try:
        rng.choice(victims).kill()
    except psutil.Error:
        return None
    return kind


def undisturbed(config: Path, ray_folder: Path) -> float:
    """Makes the run that the others are compared with; returns its seconds."""
    began = time.monotonic()
    Driver(config, ray_folder).wait()
    return time.monotonic() - began


def disturbed(
    config: Path, ray_folder: Path, kills: int, seconds: float, rng: random.Random
) -> tuple[Counter[str], Counter[str]]:
    """Runs until the end, with up to ``kills`` kills; returns the victims, and how drivers ended before the last."""
    victims: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    struck: Counter[str] = Counter()

    def next_kill() -> float:
        return time.monotonic() + rng.uniform(*PAUSE) * seconds

    while True:
        driver = Driver(config, ray_folder)
        family: list[psutil.Process] = []
        until = next_kill() if rng.random() < EARLY else math.inf
        give_up = time.monotonic() + PATIENCE_S
        while driver.process.poll() is None:
            assert time.monotonic() < give_up, "\n".join(["the run hangs", *driver.lines[-30:]])
            started = driver.started()
            if until == math.inf and started:
                until = next_kill()
            phase = started[-1] if started else "(before the first phase)"
            if sum(victims.values()) < kills and time.monotonic() > until and struck[phase] < A_PHASE:
                family = driver.family()
                if victim := strike(driver, rng):
                    victims[victim] += 1
                    struck[phase] += 1
                    print(f"kill {sum(victims.values())}: {victim} in {phase}", flush=True)
                until = next_kill()
            time.sleep(0.05)
        code = driver.process.wait()
        driver._reader.join(10)
        left_of(family, AGENTS_S)
        if code == 0:
            return victims, ends
        traceback = any(line.startswith("Traceback") for line in driver.lines)
        how = (
            "killed" if code == -9 else "traceback" if traceback else "message" if driver.logged("error") else "silent"
        )
        ends[how] += 1
        if how not in ("killed", "message"):
            print("\n".join(driver.lines[-25:]), flush=True)


def chaos(kills: int, seed: int, folder: Path) -> dict[str, object]:
    """Returns what came of ``kills`` kills: victims, ends of drivers, runs, and the files that differ."""
    rng = random.Random(seed)
    root, expected = folder / "run", folder / "undisturbed"
    config, ray_folder = folder / "tiny.yaml", Path(tempfile.mkdtemp(prefix="rl-"))
    config.write_text(yaml.safe_dump(merged(TINY, {"out_dir": str(root)})))
    victims: Counter[str] = Counter()
    ends: Counter[str] = Counter()
    differing: list[str] = []
    runs = 0
    try:
        seconds = undisturbed(config, ray_folder)
        print(f"the undisturbed run: {seconds:.0f} s", flush=True)
        root.rename(expected)
        while sum(victims.values()) < kills:
            found, ended = disturbed(config, ray_folder, kills - sum(victims.values()), seconds, rng)
            victims, ends, runs = victims + found, ends + ended, runs + 1
            actual, wanted = files(root), files(expected)
            differing += sorted(n for n in actual.keys() | wanted.keys() if actual.get(n) != wanted.get(n))
            differing += [] if verify(root).sound else ["(rlenv verify)"]
            shutil.rmtree(root)
    finally:
        shutil.rmtree(ray_folder, ignore_errors=True)
    return {"kills": sum(victims.values()), "victims": dict(victims), "runs": runs, "drivers ended early": dict(ends),
            "differing files": differing, "seed": seed}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        came = chaos(options.kills, options.seed, Path(folder))
    print(json.dumps(came))
    bad = set(came["drivers ended early"]) - {"killed", "message"}  # type: ignore[call-overload]
    sys.exit(1 if came["differing files"] or bad else 0)


if __name__ == "__main__":
    main()
