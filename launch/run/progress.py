"""Progress bars on the terminal: one a phase. Quiet where the output is no terminal, apart from a line a phase."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from rlenv.core.progress import Line, read_progress

console = Console(stderr=True)


@contextmanager
def bar(title: str, total: int | None) -> Iterator[Callable[..., None]]:
    """Gives a function that sets how much is done, and of how much if that has become known."""
    columns = (
        TextColumn("{task.description:<34}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=False, disable=not console.is_terminal) as progress:
        task = progress.add_task(title, total=total)

        def set_done(done: int, total: int | None = total) -> None:
            progress.update(task, completed=done, total=total)

        yield set_done
    if not console.is_terminal:
        console.print(f"{title}: done", highlight=False)


@contextmanager
def counting(title: str, total: int) -> Iterator[Callable[[], None]]:
    """Gives a function to call once for each of ``total`` things done."""
    done = 0
    with bar(title, total) as set_done:

        def advance() -> None:
            nonlocal done
            done += 1
            set_done(done)

        yield advance


@contextmanager
def training(
    title: str, path: Path, *, keep: bool = False, tell: Callable[[list[Line]], None] = lambda _: None
) -> Iterator[Path]:
    """Draws a training run's progress from the file its workers append to; gives that file's path.

    Args:
        title: of the bar.
        path: of the file.
        keep: what an earlier attempt wrote stays; otherwise the file begins empty.
        tell: is given all lines whenever there are new ones, in another thread.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not keep:
        path.unlink(missing_ok=True)
    stop = threading.Event()
    with bar(title, None) as set_done:

        def follow() -> None:
            seen = 0
            while not stop.wait(1.0):
                lines = read_progress(path)
                if len(lines) > seen:
                    seen = len(lines)
                    set_done(int(lines[-1]["step"]), int(lines[-1]["total"]))
                    tell(lines)

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        try:
            yield path
        finally:
            stop.set()
            thread.join()
