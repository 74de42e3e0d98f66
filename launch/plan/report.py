"""Prints a plan: models, phases with their processes and memory, GPU-hours beside the paper's, and the assumptions."""

from __future__ import annotations

from dataclasses import fields
from itertools import groupby

from rich import box
from rich.console import Console
from rich.table import Table

from launch.plan.hardware import GIB
from launch.plan.phases import BEYOND, Phase, kind_of
from launch.plan.placement import Placed
from launch.plan.plan import PAPER_ITERATION, PAPER_SFT, Plan

DEFAULTS = {"context_tokens": "all of context.budget_tokens", "sft_sessions": "the data's, or 160,000 as in the paper"}
TITLES = {"optimizer": "gradients, optimiser", "kv_cache": "KV cache"}


def print_plan(plan: Plan, console: Console | None = None) -> None:
    """Prints the plan, without its problems."""
    console = console or Console()
    card, peak, bandwidth = plan.gpus.card

    def line(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True, markup=False)

    line(
        f"{plan.name} on {plan.gpus}: {plan.gpus.total} GPUs of {plan.gpus.gib:g} GiB, taken to be {card} "
        f"({peak / 1e12:.0f} TFLOP/s, {bandwidth / 1e9:,.0f} GB/s)"
    )
    for role, model in (("simulator", plan.models.simulator), ("discriminator's backbone", plan.models.backbone)):
        line(f"{role}: {model.name}, {model.shape.num_parameters / 1e9:.2f}B parameters (shape from {model.source})")
    kept = "stay up during training" if plan.keeps_engines else "are stopped before training"
    line(f"engines {kept}; CPUs at once: {plan.num_cpus:g}")
    for phase in plan.phases:
        _print_phase(plan, phase, console)
    hours = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for title in ("GPU-hours", "this plan", "the paper (C.3)"):
        hours.add_column(title, justify="left" if title == "GPU-hours" else "right")
    hours.add_row("SFT of the base", f"{plan.sft_hours:.1f}", f"{PAPER_SFT:g}")
    hours.add_row("an iteration: discriminators and DPO", f"{plan.training_hours:.1f}", f"{PAPER_ITERATION:g}")
    hours.add_row("an iteration, with conversations and preferences", f"{plan.iteration_hours:.1f}", "-")
    hours.add_row("the run", f"{plan.run_hours:.1f}", "-")
    console.print(hours)
    if (tokens := plan.paper_session_tokens) and card == "H100":
        sessions = f"{plan.sft_sessions:,} sessions of {tokens:,.0f} tokens"
        line(f"At this speed the paper's {PAPER_SFT:g} GPU-hours would be {sessions}.\n")
    line("assumptions (--assume key=value):")
    for each in fields(plan.assumed):
        value = getattr(plan.assumed, each.name)
        line(f"  {each.name} = {DEFAULTS.get(each.name) if value is None else value}")


def _print_phase(plan: Plan, phase: Phase, console: Console) -> None:
    where = "beyond Algorithm 1" if phase.lines == BEYOND else f"Algorithm 1, line {phase.lines}"
    console.print(
        f"\n[bold]{phase.name}[/] ({where}; {phase.times:g} in the run): "
        f"{phase.tokens / 1e6:,.1f}M tokens, {phase.seconds / 3600:.2f} h, {phase.gpu_hours:.1f} GPU-hours; "
        f"{plan.host_bytes(phase) / GIB:,.0f} GiB of host memory a node",
        highlight=False,
        soft_wrap=True,
    )
    for _, group in groupby(phase.placed, key=lambda one: kind_of(one.process)):
        members = list(group)
        process, size = members[0].process, len(members[0].seats)
        if not size:
            console.print(f"  CPU: {len(members)} x {kind_of(process)}", highlight=False)
            continue
        share = f", TP {size}" if size > 1 else f", {process.gpus:g} of a GPU" if process.gpus < 1 else ""
        parts = [f"{TITLES.get(k, k)} {v / GIB:.1f}" for k, v in process.memory.by_kind().items() if v >= GIB / 20]
        console.print(
            f"  GPU {_where(members)}: {len(members)} x {kind_of(process)}{share}, "
            f"{process.memory.total / GIB:.1f} GiB a GPU ({', '.join(parts)})",
            highlight=False,
            soft_wrap=True,
        )
    for note in phase.notes:
        console.print(f"  {note}", highlight=False, soft_wrap=True, markup=False)


def _where(members: list[Placed]) -> str:
    """Returns the GPUs of a group as ranges: 0-3, or with several nodes node:0-7."""
    seats = sorted({(seat.node, seat.index) for one in members for seat in one.seats})
    parts = []
    for node, group in groupby(seats, key=lambda seat: seat[0]):
        numbers = [index for _, index in group]
        span = f"{numbers[0]}-{numbers[-1]}" if len(numbers) > 1 else f"{numbers[0]}"
        parts.append(f"{node}:{span}" if seats[-1][0] else span)
    return " ".join(parts)
