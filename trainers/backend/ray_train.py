"""Runs every training loop on Ray Train: launch, log files, resuming, and errors that name the cause.

``run_training(loop, payload, ...)`` runs ``loop(payload, worker)`` on every worker of a ``TorchTrainer`` and returns
the result of rank 0. Workers log to files and never to the console, so that third-party progress bars and warnings stay
out of the driver's terminal. A lost worker is replaced and the loop runs again, so a loop must begin with
``worker.resume()``. Independent of what is trained.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel
from pydantic_core import PydanticSerializationError

from rlenv.core.errors import PhaseError
from rlenv.core.files import to_line
from rlenv.core.progress import Progress, progressed
from rlenv.models.capacity import asked, fitting, listed
from rlenv.models.hardware import keep_freed_memory
from trainers.backend.config import TrainResources
from trainers.backend.watch import SILENT, controller_watch, watched
from trainers.backend.worker import Worker

logger = logging.getLogger(__name__)
LOG_LINES = 15
RESUME = "Run the same command again: training resumes from its last checkpoint."


MARK = "training"
"""The file in a checkpoint that names the training which it belongs to."""


@dataclass(frozen=True)
class RayWorker(Worker):
    """A worker of a Ray Train run."""

    key: str = ""
    """Of the training; workers that are kept have checkpoints of several."""

    def report(self, metrics: dict[str, float], checkpoint: str | Path | None = None) -> None:
        """Reports to Ray Train; waits for every rank."""
        from ray import train

        progressed()
        saved = None
        if checkpoint and self.rank == 0:
            (Path(checkpoint) / MARK).write_text(self.key)
            saved = train.Checkpoint.from_directory(str(checkpoint))
        train.report(metrics=metrics, checkpoint=saved)
        progressed()

    @contextlib.contextmanager
    def resume(self) -> Iterator[Path | None]:
        """Yields the folder of the last reported checkpoint; None at a fresh start."""
        from ray import train

        checkpoint = train.get_checkpoint()
        if checkpoint is None:
            yield None
        else:
            with checkpoint.as_directory() as folder:
                mark = Path(folder) / MARK
                yield Path(folder) if mark.exists() and mark.read_text() == self.key else None


Loop = Callable[[Any, Worker], Any]


@dataclass(frozen=True)
class Job:
    """A training as a worker gets it. Paths are visible to all workers."""

    loop: Loop
    payload: Any
    name: str
    key: str
    """Equal for trainings that may resume from each other's checkpoints."""
    logs: str
    scratch: str
    progress: str | None
    threads: int
    answer_timeout_s: float


class Workers(Protocol):
    """Workers that are kept between trainings."""

    def run(self, job: Job) -> Any:
        """Returns the result of ``job`` on rank 0."""
        ...


def run_training(
    loop: Loop,
    payload: Any,
    resources: TrainResources,
    storage_path: str | Path,
    name: str,
    *,
    progress_path: str | Path | None = None,
    workers: Workers | None = None,
) -> Any:
    """Returns the result of ``loop(payload, worker)`` on rank 0.

    Args:
        loop: runs on every worker, which must be able to import it.
        payload: what the loop takes; picklable, sent through Ray's object store.
        resources: the workers.
        storage_path: a folder visible to all workers; checkpoints go to ``storage_path/name``, logs to
            ``storage_path/name.logs``.
        name: the run's name. A second run with the same name and payload resumes from the first one's last checkpoint.
        progress_path: file to which rank 0 appends progress lines (``rlenv.core.progress``).
        workers: workers that are kept; None starts new ones for this training alone.

    Raises:
        PhaseError: training failed; has the run's name, the cause, the last log lines and how to resume.
    """
    import ray

    if not ray.is_initialized():
        raise PhaseError(f"{name}: Ray is not running; call ray.init() before training")
    storage = Path(storage_path).resolve()
    root = storage / name
    logs, scratch = storage / f"{name}.logs", root / "scratch"
    fingerprint = _fingerprint(payload)
    _keep_or_clear(root, fingerprint)
    for folder in (logs, scratch):
        folder.mkdir(parents=True, exist_ok=True)
    progress = str(Path(progress_path).resolve()) if progress_path else None
    job = Job(
        loop,
        payload,
        name,
        f"{name} {fingerprint}",
        str(logs),
        str(scratch),
        progress,
        resources.num_threads(),
        resources.answer_timeout_s,
    )
    if shortage := _shortage(resources):
        logger.warning("%s: %s; waiting for nodes to join", name, shortage)
    try:
        if workers is not None:
            result = workers.run(job)
        else:
            result = make_trainer(lambda: run_job(job), resources, storage, name).fit().return_value
    except Exception as error:
        raise PhaseError(_explain(name, error, logs, resources)) from error
    shutil.rmtree(root, ignore_errors=True)
    return result


def make_trainer(train_loop: Callable[[], Any], resources: TrainResources, storage: Path, name: str) -> Any:
    """Returns Ray Train's trainer that runs ``train_loop`` on every worker.

    Args:
        train_loop: what each worker runs.
        resources: the workers.
        storage: a folder visible to all workers.
        name: the folder of the checkpoints in ``storage``.
    """
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.v2.api.config import LoggingConfig

    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(resources.startup_timeout_s)
    if not _has_dashboard():
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # for spot nodes; locally it only warns
    alone = resources.num_workers == 1 and not resources.num_gpus
    return _quiet_trainer(alone, resources.answer_timeout_s)(
        train_loop,
        scaling_config=ScalingConfig(
            num_workers=resources.num_workers,
            use_gpu=resources.num_gpus > 0,
            resources_per_worker={"CPU": resources.num_cpus}
            | ({"GPU": resources.num_gpus} if resources.num_gpus else {}),
        ),
        run_config=RunConfig(  # type: ignore[call-arg]  # the class of V2, which the stubs do not know
            name=name,
            storage_path=str(storage),
            # Otherwise Ray Train waits for room without end.
            failure_config=FailureConfig(  # type: ignore[call-arg]  # of V2, too
                max_failures=resources.max_failures, controller_failure_limit=resources.max_failures
            ),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )


def run_job(job: Job) -> Any:
    """Runs a training on a worker of Ray Train; returns its result."""
    from ray import train

    context = train.get_context()
    rank = context.get_world_rank()
    _log_to(Path(job.logs) / f"worker-{rank}.log")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import torch

    torch.set_num_threads(job.threads)
    device = "cpu"
    if torch.cuda.is_available():
        from ray.train.torch import get_device

        device = str(get_device())
    if device == "cpu":
        keep_freed_memory()
    worker = RayWorker(
        rank=rank,
        world_size=context.get_world_size(),
        device=device,
        progress=Progress(job.progress if rank == 0 else None, job.name),
        scratch=Path(job.scratch),
        key=job.key,
    )
    with watched(job.answer_timeout_s, steps=rank == 0):
        return job.loop(job.payload, worker)


def _log_to(path: Path) -> None:
    """Redirects this process's output, including that of C libraries, to ``path``."""
    stream = path.open("a", buffering=1)
    for fd in (1, 2):
        os.dup2(stream.fileno(), fd)
    sys.stdout = sys.stderr = stream
    logging.basicConfig(stream=stream, level=logging.INFO, force=True, format="%(asctime)s %(name)s %(message)s")
    for noisy in ("httpx", "httpcore", "fsspec", "datasets", "filelock", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _fingerprint(payload: Any) -> str:
    """Returns a digest of the payload's values, the same in every process. (A pickle is not: sets have no order.)"""
    digest = hashlib.sha256()

    def add(value: Any) -> None:
        digest.update(type(value).__name__.encode())
        if isinstance(value, BaseModel):
            try:
                digest.update(value.model_dump_json().encode())
            except PydanticSerializationError:  # half an emoji
                digest.update(to_line(value.model_dump(mode="json")))
        elif isinstance(value, Mapping):
            for key in value:
                add(key)
                add(value[key])
        elif isinstance(value, (list, tuple)) and not (value and isinstance(value[0], int)):
            for item in value:
                add(item)
        elif dataclasses.is_dataclass(value):
            for field in dataclasses.fields(value):
                if field.compare:  # actor handles, for example, do not determine what is trained
                    add(getattr(value, field.name))
        else:
            digest.update(repr(value).encode("utf-8", "surrogatepass"))

    add(payload)
    return digest.hexdigest()


def _keep_or_clear(root: Path, fingerprint: str) -> None:
    """Keeps an unfinished run's checkpoints if its payload was the same, and clears them otherwise."""
    mark = root / "payload.sha256"
    if root.exists() and (not mark.exists() or mark.read_text() != fingerprint):
        logger.info("%s: the unfinished run in this folder had another payload; starting afresh", root.name)
        shutil.rmtree(root)
    root.mkdir(parents=True, exist_ok=True)
    mark.write_text(fingerprint)


def _shortage(resources: TrainResources) -> str:
    """Returns what the cluster lacks for the workers, even when nothing else runs; "" where they fit."""
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    need = {"CPU": resources.num_cpus, "GPU": resources.num_gpus}
    if fitting(nodes, need) >= resources.num_workers:
        return ""
    return f"{asked(resources.num_workers, need)}, but the cluster has {listed(nodes)} (per node)"


def _explain(name: str, error: BaseException, logs: Path, resources: TrainResources) -> str:
    from ray.exceptions import RayActorError

    failures = getattr(error, "worker_failures", None) or {0: getattr(error, "controller_failure", error)}
    rank, cause = sorted(failures.items())[0]
    if isinstance(error, RayActorError):
        return (
            f"training {name}: Ray Train's controller died, or could not run for {resources.answer_timeout_s:g} s "
            f"(train.answer_timeout_s) and was killed. {RESUME}"
        )
    if type(cause).__name__ == "WorkerGroupStartupTimeoutError":
        return (
            f"training {name}: its workers did not start within {resources.startup_timeout_s:g} s, tried "
            f"{resources.max_failures + 1} times: {_shortage(resources) or 'other work holds what they need'}. Lower "
            "train.num_workers, train.num_cpus or train.num_gpus, add nodes, or raise train.startup_timeout_s where "
            "starting takes longer; then run the same command again"
        )
    file = logs / f"worker-{rank}.log"
    lines = file.read_text(errors="replace").splitlines()[-LOG_LINES:] if file.exists() else ["(no log was written)"]
    silent = f"it {SILENT}; raise train.answer_timeout_s if a step takes longer. "
    return (
        f"training {name} failed on worker {rank}: {type(cause).__name__}: {_last_line(cause)}\n"
        f"last lines of {file}:\n  " + "\n  ".join(lines) + "\n"
        f"{silent if any(SILENT in line for line in lines) else ''}" + RESUME
    )


def _has_dashboard() -> bool:
    import ray

    return bool(ray._private.worker.get_dashboard_url())


def _quiet_trainer(alone: bool, answer_timeout_s: float) -> Any:
    """Returns ``TorchTrainer`` with a watched controller, and without the parts that have nothing to do here.

    One worker on a CPU, ``alone``, needs no process group: its trainer does not import torch into Ray Train's own
    processes.
    The callback of Ray Data's datasets starts an actor, which takes seconds; our loops get their data as payload.
    The placement-group cleaner frees a run's resources if its controller dies. It polls the dashboard once a second;
    without one it only logs warnings.
    Ray Train's handler of SIGINT would stay after the training and swallow every later Ctrl-C; within one, it ends the
    process without a word. Without it Ctrl-C raises KeyboardInterrupt; the workers end with their controller.
    """
    import ray

    trainer: Any
    if alone:
        from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer as trainer
    else:
        from ray.train.torch import TorchTrainer as trainer

    class QuietTrainer(trainer):
        def _create_default_callbacks(self) -> list[Any]:
            idle = {"DatasetsCallback"} | (set() if _has_dashboard() else {"PlacementGroupCleanerCallback"})
            callbacks: list[Any] = super()._create_default_callbacks()
            used = [callback for callback in callbacks if type(callback).__name__ not in idle]
            return [*used, controller_watch(answer_timeout_s)]

        def _register_sigint_handler(self, controller: Any) -> None:
            self._controller = controller

        def fit(self) -> Any:
            try:
                return super().fit()
            except KeyboardInterrupt:
                if hasattr(self, "_controller"):
                    ray.kill(self._controller)
                raise

    return QuietTrainer


def _last_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[-1].removeprefix(f"{type(error).__name__}: ") if lines else "(no message)"
