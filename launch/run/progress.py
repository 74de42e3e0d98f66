"""Progress bars: one per phase on a terminal, and elsewhere one line per finished phase."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from rlenv.core import progress as lines_of
from rlenv.core.progress import Line, read_progress

console = Console(stderr=True)
LINE_S = 1.0


@contextmanager
def bar(title: str, total: int | None) -> Iterator[Callable[..., None]]:
    """Yields a function ``set_done(done, total)`` that moves a progress bar; ``total`` may become known later."""
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
def counting(title: str, total: int, path: Path | None = None) -> Iterator[Callable[[], None]]:
    """Yields a function to call once for each of ``total`` items.

    Args:
        title: the bar's title.
        total: number of items.
        path: a progress file, which gets a line about once a second; None writes none.
    """
    if path is not None:
        path.unlink(missing_ok=True)
    lines, written, done = lines_of.Progress(str(path) if path else None, title), 0.0, 0
    lines.begin()
    with bar(title, total) as set_done:

        def advance() -> None:
            nonlocal done, written
            done += 1
            set_done(done)
            if done == total or time.monotonic() - written >= LINE_S:
                written = time.monotonic()
                lines.write(done, total)

        yield advance


@contextmanager
def training(
    title: str, path: Path, *, keep: bool = False, on_lines: Callable[[list[Line]], None] = lambda _: None
) -> Iterator[Path]:
    """Yields the path of a progress file, and draws the training's progress from what its workers append there.

    Args:
        title: the bar's title.
        path: the progress file.
        keep: whether to keep the lines of an earlier attempt; otherwise the file starts empty.
        on_lines: called in another thread with all lines whenever there are new ones.
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
                    on_lines(lines)

        thread = threading.Thread(target=follow, daemon=True)
        thread.start()
        try:
            yield path
        finally:
            stop.set()
            thread.join()
