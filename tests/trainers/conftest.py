"""What the tests of the training loops share: small sessions, and workers that die."""

from __future__ import annotations

import contextlib
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlenv.core.progress import Progress
from rlenv.core.types import Message, Session
from trainers.backend.worker import Worker

WORDS = ["I", "feel", "low", "and", "tired", "today", "my", "work", "is", "hard", "so", "what", "now"]


@pytest.fixture(scope="session")
def make_session():
    """Returns a maker of sessions: ``make(name, turns, extra)`` puts ``extra`` at the end of every user message."""

    def make(name: str, turns: int = 3, extra: str = "", words: list[str] = WORDS) -> Session:
        rng = random.Random(name)
        messages = []
        for _ in range(turns):
            messages.append(Message(role="user", content=" ".join(rng.choices(words, k=rng.randint(2, 6))) + extra))
            messages.append(Message(role="assistant", content=" ".join(rng.choices(words, k=4))))
        return Session(session_id=name, messages=tuple(messages))

    return make


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Two threads on a busy machine spend their time waiting for each other."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


class Died(Exception):
    """Stands for the loss of a worker."""


class DyingProgress(Progress):
    """Raises when ``at_step`` is reported."""

    def __init__(self, at_step: int) -> None:
        super().__init__(None, "dying")
        self.at_step = at_step

    def write(self, step: int, total: int, **metrics: float) -> None:
        if step == self.at_step:
            raise Died


class RememberingWorker(Worker):
    """A worker in this process that keeps the last checkpoint reported, as Ray Train does."""

    @property
    def kept(self) -> Path:
        return self.scratch.with_name("kept")

    def report(self, metrics: dict[str, float], checkpoint: str | Path | None = None) -> None:
        if checkpoint:
            shutil.rmtree(self.kept, ignore_errors=True)
            shutil.copytree(checkpoint, self.kept)

    @contextlib.contextmanager
    def resume(self) -> Iterator[Path | None]:
        yield self.kept if self.kept.exists() else None


@pytest.fixture
def die_and_go_on(scratch: Path):
    """Returns ``run(loop, payload, at_step)``: the loop's result after a crash at ``at_step`` and a restart."""

    def run(loop, payload, at_step: int):
        with pytest.raises(Died):
            loop(payload, RememberingWorker(scratch, DyingProgress(at_step)))
        worker = RememberingWorker(scratch)
        assert worker.kept.exists()
        return loop(payload, worker)

    return run
