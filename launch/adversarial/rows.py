"""The further rows of a run's table, evaluated like a version and never trained on: baselines and resampled users.

Some are made from the newest version. Where a finished run goes on to a newer one, they are removed and made again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from launch.adversarial.phases import collect_resampled, collect_sessions, further_sft
from launch.adversarial.run import AdversarialRun
from launch.adversarial.simulation import Simulated
from launch.run.contents import MAIN, version_names
from rlenv.core.types import Adapter, Session
from rlenv.discriminator.likelihood import reader_of


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
    _remove_rows_of_older(run, newest)
    for name in run.config.zero_shot:  # untrained baselines (4.2)
        yield Row(name, newest, partial(collect_sessions, run, name, contexts))
    if run.config.further_sft == "row":
        adapter = further_sft(run, contexts["adversarial"])
        yield Row(adapter.name, adapter, partial(collect_sessions, run, adapter, contexts))
    for n in run.config.resampled:
        yield Row(f"{newest.name}_of_{n}", newest, partial(collect_resampled, run, newest, checkpoint, n, contexts))


def _remove_rows_of_older(run: AdversarialRun, newest: Adapter) -> None:
    """Removes what was made from a version that was the newest before the run went on."""
    why = f"since it was made from an older version than {newest.name}; it is made again"
    for n in run.config.resampled:
        for version in version_names(run.config):
            if version != newest.name and run.directory.has(f"{version}_of_{n}"):
                run.directory.remove(f"{version}_of_{n}", why)
    for name in run.config.zero_shot:
        reader = reader_of(run.directory.path(f"{name}/discriminator/{MAIN}"))
        if reader is not None and reader.parent.name != Path(newest.path).parent.name:  # a copied run has other paths
            for phase in ("measures", "discriminator"):
                if run.directory.has(f"{name}/{phase}"):
                    run.directory.remove(f"{name}/{phase}", why)
