"""Ray Train workers that stay up between the trainings of a run, which then do not wait for processes and imports.

One Ray Train run serves all trainings: its workers take one after the other from a board. What Ray Train does for a
lost worker still holds: it replaces the workers, which take the unfinished training again and resume from its last
checkpoint. After a training that lost workers the group ends, and the next training begins a new one.
"""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlenv.core.errors import PhaseError
from trainers.backend.config import TrainResources
from trainers.backend.ray_train import Job, make_trainer, run_job

NAME = "workers"
POLL_S = 1.0
END_S = 30.0


class Board:
    """A Ray actor with the training that is to be run, and its result."""

    def __init__(self, world_size: int) -> None:
        self.world_size = world_size
        self.number = 0
        """Of the newest training, from 1."""
        self.job: Job | None = None
        self.starts = 0
        self.ended: dict[int, Any] = {}
        self.closed = False
        self.changed = asyncio.Condition()

    async def run(self, job: Job) -> tuple[Any, bool]:
        """Returns the result of ``job`` on rank 0, and whether workers were replaced meanwhile."""
        async with self.changed:
            self.number, self.job, self.starts, self.ended = self.number + 1, job, 0, {}
            self.changed.notify_all()
            await self.changed.wait_for(lambda: len(self.ended) == self.world_size)
            self.job = None
            return self.ended[0], self.starts > 1

    async def take(self, rank: int, after: int) -> tuple[int, Job] | None:
        """Returns the unfinished training with a number above ``after``, once there is one; None at the end."""
        async with self.changed:
            await self.changed.wait_for(lambda: self.closed or (self.job is not None and self.number > after))
            if self.closed or self.job is None:
                return None
            if rank == 0:
                self.starts += 1
            return self.number, self.job

    async def end(self, rank: int, number: int, result: Any) -> None:
        """Takes a rank's result."""
        async with self.changed:
            if number == self.number:
                self.ended[rank] = result
                self.changed.notify_all()

    async def close(self) -> None:
        """Lets the workers end after the training that they are running."""
        async with self.changed:
            self.closed = True
            self.changed.notify_all()


def serve(board: Any) -> None:
    """Runs trainings from ``board`` on a worker of Ray Train, until the board is closed."""
    import ray
    from ray import train

    rank, after = train.get_context().get_world_rank(), 0
    while (taken := ray.get(board.take.remote(rank, after))) is not None:
        after, job = taken
        with as_in_a_new_process():
            result = run_job(job)
        ray.get(board.end.remote(rank, after, result))


@contextmanager
def as_in_a_new_process() -> Iterator[None]:
    """Undoes what a training leaves behind in its process: environment variables, Accelerate's state, memory.

    Transformers and Accelerate hand on settings, such as the precision, in the environment.
    """
    before = dict(os.environ)
    try:
        yield
    finally:
        _restore(before)
        if "accelerate" in sys.modules:
            from accelerate.state import AcceleratorState, GradientState

            AcceleratorState._reset_state(reset_partial_state=True)
            GradientState._reset_state()
        gc.collect()
        if "torch" in sys.modules:
            sys.modules["torch"].cuda.empty_cache()  # engines and the served discriminator share the GPU


def _restore(environment: Mapping[str, str]) -> None:
    for name in set(os.environ) - set(environment):
        del os.environ[name]
    os.environ.update(environment)


class WorkerGroup:
    """Workers that run one training after the other. They start with the first one.

    Args:
        resources: the workers.
        storage_path: a folder visible to all workers; checkpoints go to ``storage_path/workers``.
    """

    def __init__(self, resources: TrainResources, storage_path: str | Path) -> None:
        self.resources = resources
        self.storage = Path(storage_path).resolve()
        self._board: Any = None
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def run(self, job: Job) -> Any:
        """Returns the result of ``job`` on rank 0.

        Raises:
            Exception: Ray Train's own; the training failed, or workers were lost too often.
        """
        import ray

        if self._board is None:
            self._start()
        pending = self._board.run.remote(job)
        try:
            while not ray.wait([pending], timeout=POLL_S)[0]:
                if self._thread is not None and not self._thread.is_alive():
                    error, self._error = self._error, None
                    self._forget()
                    raise error or PhaseError("the workers ended before the training did")
        except KeyboardInterrupt:
            self._forget()  # they would only end after the training; they end with the connection to Ray
            raise
        result, replaced = ray.get(pending)
        if replaced:  # Ray Train counts losses over all trainings of a group; each is to begin at none
            self.close()
        return result

    def close(self) -> None:
        """Ends the workers, after the training that they are running."""
        import ray

        if self._board is None:
            return
        if ray.is_initialized():
            ray.get(self._board.close.remote())
            if self._thread is not None:
                self._thread.join(END_S)
        self._forget()
        shutil.rmtree(self.storage / NAME, ignore_errors=True)

    def _start(self) -> None:
        import ray

        self._board = ray.remote(num_cpus=0)(Board).remote(self.resources.num_workers)
        board = self._board
        trainer = make_trainer(lambda: serve(board), self.resources, self.storage, NAME)

        def fit() -> None:
            try:
                trainer.fit()
            except BaseException as error:
                self._error = error

        self._thread = threading.Thread(target=fit, name="ray-train", daemon=True)
        self._thread.start()

    def _forget(self) -> None:
        self._board, self._thread = None, None
