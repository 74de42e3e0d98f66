"""Puts the processes of a phase on GPUs: whole GPUs of one node for an engine, shares of a GPU where they are less."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from launch.plan.hardware import Gpus
from launch.plan.memory import Memory

EPSILON = 1e-9


@dataclass(frozen=True)
class Process:
    """One process or engine that holds GPUs during a phase."""

    name: str
    gpus: float
    """GPUs that Ray reserves: a whole number, or a share below 1. 0 runs on the CPU."""
    memory: Memory
    """On each of its GPUs."""


@dataclass(frozen=True)
class Seat:
    """One GPU: its node and its number there."""

    node: int
    index: int


@dataclass(frozen=True)
class Placed:
    """A process and its GPUs."""

    process: Process
    seats: tuple[Seat, ...]


def place(processes: Sequence[Process], gpus: Gpus) -> tuple[list[Placed], list[Process]]:
    """Returns (the processes with their GPUs, those for which there is no room), in the order given.

    An engine's GPUs are on one node, since one Ray actor holds them. Shares below 1 fill a GPU before the next.
    """
    free = {Seat(node, index): 1.0 for node in range(gpus.nodes) for index in range(gpus.per_node)}
    placed, left = [], []
    for process in processes:
        seats = _seats(process.gpus, free, gpus)
        if seats is None:
            left.append(process)
            continue
        for seat in seats:
            free[seat] -= min(1.0, process.gpus)
        placed.append(Placed(process, seats))
    return placed, left


def _seats(wanted: float, free: dict[Seat, float], gpus: Gpus) -> tuple[Seat, ...] | None:
    if wanted == 0:
        return ()
    if wanted < 1:
        used = [seat for seat, share in free.items() if wanted - EPSILON <= share < 1]
        empty = [seat for seat, share in free.items() if share == 1.0]
        return tuple([*used, *empty][:1]) or None
    for node in range(gpus.nodes):
        empty = [seat for seat, share in free.items() if seat.node == node and share == 1.0]
        if len(empty) >= wanted:
            return tuple(empty[: int(wanted)])
    return None


def memory_on(placed: Sequence[Placed]) -> dict[Seat, float]:
    """Returns the bytes that the processes on each GPU need together."""
    needed: dict[Seat, float] = {}
    for one in placed:
        for seat in one.seats:
            needed[seat] = needed.get(seat, 0.0) + one.process.memory.total
    return needed
