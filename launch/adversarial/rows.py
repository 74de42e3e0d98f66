"""The further rows of a run's table, evaluated like a version and never trained on: baselines and resampled users."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from launch.adversarial.phases import collect_resampled, collect_sessions, further_sft
from launch.adversarial.run import AdversarialRun
from launch.adversarial.simulation import Simulated
from rlenv.core.types import Adapter, Session


@dataclass(frozen=True)
class Row:
    """One further row."""

    name: str
    reader: Adapter
    """The simulator that a ``likelihood`` discriminator reads with."""
    collect: Callable[[], list[Simulated]]
    """Returns the sessions to be judged."""


def further_rows(
    run: AdversarialRun, newest: Adapter, checkpoint: Path, contexts: Mapping[str, Sequence[Session]]
) -> Iterator[Row]:
    """Yields the rows that the configuration asks for.

    Args:
        run: the run.
        newest: the newest version that was taken.
        checkpoint: its discriminator, which draws the messages of resampled users.
        contexts: the real sessions whose contexts are simulated, by part.
    """
    for name in run.config.zero_shot:  # untrained baselines (4.2)
        yield Row(name, newest, partial(collect_sessions, run, name, contexts))
    if run.config.further_sft == "row":
        adapter = further_sft(run, contexts["adversarial"])
        yield Row(adapter.name, adapter, partial(collect_sessions, run, adapter, contexts))
    for n in run.config.resampled:
        yield Row(f"{newest.name}_of_{n}", newest, partial(collect_resampled, run, newest, checkpoint, n, contexts))
