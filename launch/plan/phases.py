"""What all phases of a plan share: the run, the hardware, the processes on GPUs, and the list of what does not fit."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from launch.plan.assumptions import Assumptions
from launch.plan.hardware import GIB, Gpus
from launch.plan.loads import EngineLoad, Models
from launch.plan.placement import Placed, Process, memory_on, place
from launch.plan.work import Work, sizes
from launch.run.config.run import RunConfig, keeps_engines

BEYOND = "-"
"""In place of lines for a phase that Algorithm 1 does not have."""


@dataclass(frozen=True)
class Phase:
    """One phase of the run."""

    name: str
    lines: str
    """Lines of Algorithm 1; ``BEYOND`` it has none."""
    placed: tuple[Placed, ...]
    tokens: float
    seconds: float
    """Wall time, start included."""
    times: float
    """How often the run does it."""
    notes: tuple[str, ...] = ()

    @property
    def num_gpus(self) -> int:
        """GPUs on which a process sits."""
        return len({seat for one in self.placed for seat in one.seats})

    @property
    def gpu_hours(self) -> float:
        """GPU-hours of doing it once."""
        return self.num_gpus * self.seconds / 3600


@dataclass
class Planner:
    """One run on given GPUs; ``problems`` are what does not fit, each with the setting to change."""

    config: RunConfig
    gpus: Gpus
    assumed: Assumptions
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.models = Models.of(self.config)
        self.sizes = sizes(self.config, self.assumed)
        self.runtime = self.assumed.runtime_gib * GIB
        self.usable = self.assumed.usable_share * self.gpus.gib * GIB

    @cached_property
    def keeps(self) -> bool:
        """Whether engines stay up during training."""
        return keeps_engines(self.config, float("inf"), self.gpus.total)

    @property
    def hosted(self) -> list[str]:
        """Names of the engines that conversations need."""
        names = {s.engine for s in self.config.chatbots.values() if s.kind == "engine"}
        return sorted({"simulator", *names})

    def engine(self, name: str) -> EngineLoad:
        """Returns one engine of a pool."""
        return EngineLoad(self.models.engines[name].shape, self.config.engines[name], self.gpus, self.runtime)

    def engines(self, names: Sequence[str]) -> Iterator[Process]:
        """Yields the engines of these pools."""
        for name in names:
            engine, memory = self.config.engines[name], self.engine(name).memory()
            for index in range(engine.replicas):
                yield Process(f"engine {name} {index}", engine.num_gpus, memory)

    def phase(
        self,
        name: str,
        lines: str,
        processes: Sequence[Process],
        works: Sequence[Work],
        times: float,
        *,
        beside_engines: bool = True,
        notes: Sequence[str] = (),
    ) -> Phase:
        """Returns a phase with its processes on GPUs, and notes what finds no room.

        Args:
            name: the phase.
            lines: its lines of Algorithm 1.
            processes: who holds GPUs.
            works: what is done at the same time; the longest counts.
            times: how often the run does it.
            beside_engines: whether engines that stay up are there too.
            notes: sentences to print.
        """
        if beside_engines and self.keeps:
            names = {process.name for process in processes}
            processes = [*(p for p in self.engines(self.hosted) if p.name not in names), *processes]
        placed, left = place(processes, self.gpus)
        if left:
            names_left = ", ".join(dict.fromkeys(kind_of(process) for process in left))
            self.problems.append(
                f"{name}: {names_left} finds no room; {sum(p.gpus for p in processes):g} GPUs are needed at once, "
                f"{self.gpus} has {self.gpus.total}; lower the replicas or num_gpus of engines, train or scoring"
            )
        self._check_shared(name, placed)
        seconds = max(work.seconds for work in works) + self.assumed.start_s
        return Phase(name, lines, tuple(placed), sum(work.tokens for work in works), seconds, times, tuple(notes))

    def _check_shared(self, name: str, placed: Sequence[Placed]) -> None:
        """Notes a GPU whose processes fit one by one but not together."""
        for seat, needed in memory_on(placed).items():
            here = [one.process for one in placed if seat in one.seats]
            if needed > self.usable >= max(process.memory.total for process in here):
                self.problems.append(
                    f"{name}: {', '.join(p.name for p in here)} share a GPU and need {needed / GIB:.1f} GiB together, "
                    f"{self.usable / GIB:.1f} are usable; lower engines.*.gpu_memory_utilization, or set "
                    "keep_engines to false"
                )
                return

    def too_large(self, where: str, needed: float, what: str, ways: str) -> None:
        """Notes that ``what`` needs more than a GPU has; ``ways`` says which setting to change."""
        self.problems.append(
            f"{where}: {what}: {needed / GIB:.1f} GiB a GPU, {self.usable / GIB:.1f} of {self.gpus.gib:g} are usable; "
            f"{ways}"
        )


def kind_of(process: Process) -> str:
    """Returns a process's name without its number."""
    return process.name.rsplit(" ", 1)[0]
