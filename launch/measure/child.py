"""A fresh process that runs one job and writes its peak of memory.

On a GPU the peak is PyTorch's own count of allocated bytes. On a CPU it is the process's largest resident size above
that after imports. Independent of plans.
"""

from __future__ import annotations

import gc
import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rlenv.core.errors import RlenvError
from rlenv.models.hardware import keep_freed_memory, return_freed_memory
from trainers.backend.ray_train import Loop
from trainers.backend.worker import Worker

JOB, RESULT, LOG = "job.pickle", "peak.json", "log.txt"
MAIN = "import sys; from pathlib import Path; from launch.measure.child import main; main(Path(sys.argv[1]))"


@dataclass(frozen=True)
class Job:
    """What a child runs."""

    loop: Loop
    """Called as in a training's worker; what it returns is added to the result if it is a ``Peak``."""
    payload: Any
    model: str
    """The folder of the model, whose classes are imported before the count begins."""
    device: str = "cpu"
    threads: int = 1
    keeps_freed: bool = False
    """On a CPU: with the allocator of a training's workers, which returns nothing to the system."""
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Peak:
    """The most bytes that a job held."""

    used: float
    """Allocated on the GPU, or resident above the process's own size after imports."""
    held: float | None = None
    """On a GPU: reserved by PyTorch's allocator."""


def run_in_child(job: Job, folder: Path, timeout_s: float) -> Peak | str:
    """Returns the peak of ``job``, run in a process of its own; or why there is none, as a sentence.

    Args:
        job: what to run.
        folder: an empty folder for the process's files; its log stays there.
        timeout_s: seconds after which the process is ended.
    """
    folder.mkdir(parents=True)
    (folder / JOB).write_bytes(pickle.dumps(job))
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", **job.environment}
    with (folder / LOG).open("w") as log:
        try:
            command = [sys.executable, "-c", MAIN, str(folder)]
            done = subprocess.run(command, stdout=log, stderr=log, env=environment, timeout=timeout_s)
        except subprocess.TimeoutExpired:
            return f"it was ended after {timeout_s:g} s; measure shorter rows with --tokens"
    result = folder / RESULT
    if result.exists():
        found: dict[str, Any] = json.loads(result.read_text())
        return found["error"] if "error" in found else Peak(**found)
    if done.returncode == -9:
        return "the system ended its process, as it does when memory runs out; measure shorter rows with --tokens"
    last = ((folder / LOG).read_text(errors="replace").strip().splitlines() or ["(no log)"])[-1]
    return f"its process ended with code {done.returncode}: {last}"


def main(folder: Path) -> None:
    """Runs the job in ``folder`` and writes its result there."""
    job: Job = pickle.loads((folder / JOB).read_bytes())
    scratch = folder / "scratch"
    scratch.mkdir()
    try:
        result: dict[str, Any] = vars(_measured(job, Worker(scratch=scratch, device=job.device)))
    except RlenvError as error:
        result = {"error": str(error)}
    except MemoryError:
        result = {"error": "memory ran out; measure shorter rows with --tokens"}
    except Exception as error:  # the cause is in the log; a message may quote what was read
        import torch

        if not isinstance(error, torch.OutOfMemoryError):
            raise
        result = {"error": "the GPU's memory ran out; measure shorter rows with --tokens"}
    (folder / RESULT).write_text(json.dumps(result))


def _measured(job: Job, worker: Worker) -> Peak:
    import torch

    import_libraries(job.model)
    torch.set_num_threads(job.threads)
    if worker.device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        found = job.loop(job.payload, worker)
        peak = Peak(torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved())
        return found if isinstance(found, Peak) else peak
    (keep_freed_memory if job.keeps_freed else return_freed_memory)()
    gc.collect()
    before = resident()
    forget_peak()
    found = job.loop(job.payload, worker)
    more = found.used if isinstance(found, Peak) else 0.0
    return Peak(peak_resident() - before + more)


def import_libraries(model: str) -> None:
    """Imports what the loops import while they run, and the model's classes."""
    import accelerate  # noqa: F401
    import datasets  # noqa: F401
    import peft  # noqa: F401
    import sklearn.linear_model  # noqa: F401
    import transformers
    from transformers import AutoConfig, AutoTokenizer, Trainer, TrainingArguments, get_scheduler  # noqa: F401
    from trl import DPOTrainer  # noqa: F401

    for name in AutoConfig.from_pretrained(model).architectures or ():
        getattr(transformers, name, None)


def resident(pid: int | str = "self", name: str = "VmRSS") -> float:
    """Returns the resident bytes of a process; ``VmHWM`` are its most so far."""
    path = Path(f"/proc/{pid}/status")
    if path.exists():
        found = re.search(rf"^{name}:\s+(\d+) kB", path.read_text(), re.MULTILINE)
        return float(found[1]) * 1024 if found else 0.0
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return float(most if sys.platform == "darwin" else most * 1024)


def peak_resident() -> float:
    """Returns the most resident bytes of this process since ``forget_peak``."""
    return resident(name="VmHWM")


def forget_peak() -> None:
    """Starts the count of the peak again, where the system can (Linux); elsewhere it includes imports."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def children_resident() -> float:
    """Returns the most resident bytes of each child of this process, and of theirs, added up; 0 where unknown."""

    def below(pid: str) -> list[str]:
        found: list[str] = []
        for tasks in Path(f"/proc/{pid}/task").glob("*/children"):
            for child in tasks.read_text().split():
                found += [child, *below(child)]
        return found

    return sum(resident(pid, "VmHWM") for pid in below(str(os.getpid())))
