"""Prints what was measured beside what was predicted."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.table import Table

from launch.measure.measure import Measured
from launch.plan.hardware import GIB
from launch.plan.report import TITLES

NOTES = {
    "cpu": "Measured on the CPU: the largest resident memory of a process above that after its imports. Held is the "
    "same with the allocator of training, which keeps freed memory for reuse, with gaps. No GPU was measured.",
    "cuda": "Measured on the GPU: the most that PyTorch allocated; held is what it reserved. The CUDA context "
    "(runtime_gib of a plan) comes on top.",
}


def print_measured(found: Sequence[Measured], where: str, name: str, console: Console | None = None) -> None:
    """Prints a table, what each prediction consists of, and what was not measured.

    Args:
        found: the measurements.
        where: the machine, in words.
        name: the run.
        console: where to print.
    """
    console = console or Console()

    def line(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True, markup=False)

    line(f"{name}, measured on {where}; two steps of one worker a phase, each in a process of its own")
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for title in ("phase", "rows", "predicted", "measured", "difference", "held"):
        table.add_column(title, justify="left" if title in ("phase", "rows") else "right")
    for one in found:
        if one.step is not None and one.peak is not None and one.difference is not None:
            held = "-" if one.held is None else size(one.held)
            predicted = size(one.step.predicted.total)
            table.add_row(one.phase, one.step.what, predicted, size(one.peak.used), f"{one.difference:+.0%}", held)
    if table.row_count:
        console.print(table)
    for one in found:
        if one.step is not None and one.peak is not None:
            parts = [f"{TITLES.get(k, k)} {size(v)}" for k, v in one.step.predicted.by_kind().items() if v >= 2**19]
            line(f"{one.phase}, predicted: {', '.join(parts)}")
    for one in found:
        if one.peak is None:
            line(f"{one.phase}: not measured: {one.reason}")
    devices = {one.step.job.device for one in found if one.step is not None and one.peak is not None}
    for device in sorted(devices):
        line(NOTES[device])


def size(value: float) -> str:
    """Returns bytes as MiB, or as GiB from one GiB on.

    >>> size(3 * 2**20), size(1.5 * 2**30)
    ('3 MiB', '1.50 GiB')
    """
    return f"{value / GIB:,.2f} GiB" if value >= GIB else f"{value / 2**20:,.0f} MiB"
