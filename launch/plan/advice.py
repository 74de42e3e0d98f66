"""Says which setting to change where a phase does not fit its GPU: every change that alone is enough, or the fewest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

from launch.plan.memory import TrainingLoad, training_memory

STEP = 256
FLAGS = {
    "checkpointing": "gradient_checkpointing",
    "shard": "shard",
    "offload": "offload_activations",
}
"""Fields of a load to the settings that turn them on."""


def training_advice(load: TrainingLoad, usable: float, runtime: float, section: str, flags: Sequence[str], rows: str,
                    least: int, beside: bool = False) -> str:  # fmt: skip
    """Returns what makes a training load fit, as the end of a sentence.

    Args:
        load: the load, which does not fit.
        usable: bytes of a GPU.
        runtime: bytes of the process besides the model.
        section: the section of the settings.
        flags: fields of ``FLAGS`` that the section has.
        rows: the setting that bounds a row's tokens.
        least: tokens that a row must be able to have.
        beside: whether the rows beside are to be shorter, and ``rows`` bounds those.
    """

    def fits(changed: TrainingLoad) -> bool:
        return training_memory(changed, runtime).total <= usable

    def longest(changed: TrainingLoad) -> int | None:
        return largest(changed, fits, least, beside)

    off = [f for f in flags if not getattr(load, f) and (f != "shard" or load.workers > 1)]
    for count in range(1, len(off) + 1):
        found = [
            c for c in combinations(off, count) if "offload" not in c or "checkpointing" in c or load.checkpointing
        ]
        ways = [_set(section, chosen) for chosen in found if fits(_turned_on(load, chosen))]
        if count == 1 and (most := longest(load)):
            ways.append(f"set {rows} to {most} or less")
        if ways:
            return " or ".join(ways)
    if not off and (most := longest(load)):
        return f"set {rows} to {most} or less"
    everything = _turned_on(load, off)
    if off and (most := longest(everything)):
        return f"{_set(section, off)}, and {rows} to {most} or less"
    if load.rows > 1 and fits(_one_row(everything)):
        return f"set {section}.batch_size to 1"
    return "use more or larger GPUs (train.num_workers, with shard), or a smaller model"


def largest(load: TrainingLoad, fits: Callable[[TrainingLoad], bool], least: int, beside: bool = False) -> int | None:
    """Returns the largest number of tokens of a row that fits, in steps of 256; None if it is below ``least``.

    Of the rows beside, if asked; they may not be there at all.
    """

    def with_tokens(tokens: int) -> TrainingLoad:
        if beside and load.beside is not None:
            return replace(load, beside=replace(load.beside, row_tokens=tokens))
        return replace(load, row_tokens=tokens)

    now = load.beside.row_tokens if beside and load.beside is not None else load.row_tokens
    low, high = 0, now // STEP
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(with_tokens(middle * STEP)) else (low, middle - 1)
    return low * STEP if low * STEP >= max(least, 1) else None


def _one_row(load: TrainingLoad) -> TrainingLoad:
    return replace(load, rows=1, beside=load.beside and replace(load.beside, rows=1))


def _turned_on(load: TrainingLoad, flags: Sequence[str]) -> TrainingLoad:
    changes: dict[str, Any] = dict.fromkeys(flags, True)
    return replace(load, **changes)


def _set(section: str, flags: Sequence[str]) -> str:
    return "set " + " and ".join(f"{section}.{FLAGS[flag]}" for flag in flags) + " to true"


def engine_advice(fits: Callable[[int, int], bool], now: int, heads: int, most: int, length: int, where: str) -> str:
    """Returns what makes an engine fit.

    Args:
        fits: whether an engine with (GPUs, longest request) fits.
        now: its GPUs.
        heads: attention heads, which the GPUs must divide.
        most: GPUs of a node.
        length: its longest request.
        where: the engine's key in the settings.
    """
    ways = []
    larger = [n for n in range(now + 1, most + 1) if heads % n == 0 and n & (n - 1) == 0 and fits(n, length)]
    if larger:
        ways.append(f"set {where}.tensor_parallel_size and num_gpus to {larger[0]}")
    shorter = [n for n in (length * k // 8 for k in range(7, 0, -1)) if n >= STEP and fits(now, n)]
    if shorter:
        ways.append(f"set {where}.max_model_len to {shorter[0]} or less")
    return " or ".join(ways) or f"use larger GPUs, or a smaller model in {where}.model"
