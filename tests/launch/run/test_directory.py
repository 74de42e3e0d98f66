"""A driver that is killed at any step of any phase: the next one ends with the files of an undisturbed one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]

# Python announces what it is about to do with a file, which is where the driver kills itself. Forks of one process,
# since a new one would import everything again for each of about a hundred kills.
DRIVERS = """
import json, os, signal, sys
from pathlib import Path
from launch.run.directory import RunDirectory

def make_data(folder):
    folder.mkdir()
    for name in "ab":
        (folder / name).write_text(name)

def make_adapter(folder, data):
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "weights").write_bytes(b"".join(p.read_bytes() for p in (data / "a", data / "b")))

def drive(root, kill_at):
    steps = 0
    def step(event, arguments):
        nonlocal steps
        if event == "open" or event.startswith(("os.", "shutil.")):
            if any(isinstance(a, (str, os.PathLike)) and os.fspath(a).startswith(root) for a in arguments):
                if steps == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                steps += 1
    sys.addaudithook(step)
    run = RunDirectory(root)
    with run.locked():
        run.open({"seed": 1})
        data = run.once("data", make_data)
        run.once("base/adapter", lambda folder: make_adapter(folder, data))
        run.once("base/measures", make_data)

def fork(root, kill_at=-1):
    child = os.fork()
    if not child:
        drive(root, kill_at)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL

def left(root):
    files = (p for p in sorted(Path(root).rglob("*")) if p.is_file())
    ours = (p for p in files if p.name != "timings.jsonl" and not p.name.startswith("."))
    return {str(p.relative_to(root)): p.read_text() for p in ours}

where, kill_at = Path(sys.argv[1]), 0
while True:
    root = str(where / str(kill_at))
    killed = fork(root, kill_at)
    after = sorted(left(root))
    assert not fork(root)
    phases = sorted(RunDirectory(root).timings())
    print(json.dumps({"killed": killed, "after": after, "files": left(root), "phases": phases}))
    if not killed:
        break
    kill_at += 1
"""


def test_a_driver_killed_at_any_step_of_any_phase_ends_with_the_files_of_an_undisturbed_one(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", DRIVERS, str(tmp_path)], capture_output=True, text=True, cwd=ROOT, check=True
    )
    *kills, undisturbed = map(json.loads, done.stdout.splitlines())
    assert not undisturbed["killed"] and undisturbed["files"]["base/adapter/deep/weights"] == "ab"
    assert undisturbed["phases"] == ["base/adapter", "base/measures", "data"]
    whole = {"data": {"data/a", "data/b"}, "base/adapter": {"base/adapter/deep/weights"}}
    whole = {phase: {*files, f"{phase}/manifest.json"} for phase, files in whole.items()}
    seen = {phase: set() for phase in whole}
    for kill in kills:
        assert kill["killed"] and (kill["files"], kill["phases"]) == (undisturbed["files"], undisturbed["phases"])
        for phase, files in whole.items():
            there = {name for name in kill["after"] if name.startswith(f"{phase}/")}
            assert there in (set(), files)  # whole or not at all
            half = any(name.startswith(f"{phase}.partial/") for name in kill["after"])
            seen[phase].add("before" if not there and not half else "within" if half else "after")
    assert all(states == {"before", "within", "after"} for states in seen.values())
