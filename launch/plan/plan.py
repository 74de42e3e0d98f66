"""A run's plan: its phases on given GPUs, and what does not fit. Arithmetic only: no GPU, no download, no start."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from launch.plan import serving_phases, training_phases
from launch.plan.assumptions import Assumptions
from launch.plan.hardware import GIB, Gpus
from launch.plan.loads import Models
from launch.plan.phases import BEYOND, Phase, Planner
from launch.run.config.run import RunConfig
from rlenv.core.errors import ConfigError
from rlenv.core.settings import to_dict

PAPER_SFT, PAPER_ITERATION = 55.0, 2.5
"""GPU-hours on H100s of the base's SFT, and of an iteration's discriminator and DPO (C.3)."""


@dataclass(frozen=True)
class Plan:
    """What a run needs. Sizes are bytes, times are seconds."""

    name: str
    gpus: Gpus
    assumed: Assumptions
    models: Models
    keeps_engines: bool
    phases: tuple[Phase, ...]
    problems: tuple[str, ...]
    num_cpus: float
    """CPUs of the busiest phase."""
    sft_sessions: int

    @property
    def sft_hours(self) -> float:
        """GPU-hours of the base's SFT; 0 without one."""
        return sum(p.gpu_hours for p in self.phases if p.name == training_phases.SFT)

    @property
    def paper_session_tokens(self) -> float | None:
        """Tokens of an SFT session, with its context, for which this plan would take the paper's GPU-hours; about."""
        found = [p for p in self.phases if p.name == training_phases.SFT and p.gpu_hours]
        return PAPER_SFT / found[0].gpu_hours * found[0].tokens / self.sft_sessions if found else None

    @property
    def training_hours(self) -> float:
        """GPU-hours of one iteration's discriminators and DPO, which the paper counts."""
        return sum(p.gpu_hours for p in self.phases if p.name in (training_phases.DISCRIMINATORS, training_phases.DPO))

    @property
    def iteration_hours(self) -> float:
        """GPU-hours of one whole iteration."""
        return sum(p.gpu_hours for p in self.phases if p.lines not in ("1", BEYOND))

    @property
    def run_hours(self) -> float:
        """GPU-hours of the run."""
        return sum(p.times * p.gpu_hours for p in self.phases)

    def host_bytes(self, phase: Phase) -> float:
        """Returns the host memory that the fullest node needs in a phase."""
        by_node: dict[int, float] = {}
        for one in phase.placed:
            for seat in one.seats:
                by_node[seat.node] = by_node.get(seat.node, 0.0) + one.process.memory.host
        first = max((one.process.memory.host_first for one in phase.placed), default=0.0)
        return max(first, *by_node.values(), 0.0)

    def require_fit(self) -> None:
        """Raises a ConfigError with every setting to change, if the plan does not fit."""
        if self.problems:
            raise ConfigError(f"{self.name} does not fit {self.gpus}:\n" + "\n".join(f"- {p}" for p in self.problems))

    def to_json(self) -> dict[str, Any]:
        """Returns the plan as plain values, with memory in GiB."""
        return {
            "name": self.name,
            "gpus": {**asdict(self.gpus), "card": self.gpus.card[0]},
            "fits": not self.problems,
            "problems": list(self.problems),
            "keeps_engines": self.keeps_engines,
            "num_cpus": self.num_cpus,
            "models": {
                role: {"name": m.name, "parameters": m.shape.num_parameters, "source": m.source}
                for role, m in (
                    ("simulator", self.models.simulator),
                    ("backbone", self.models.backbone),
                    *((f"engines.{name}", model) for name, model in self.models.engines.items()),
                )
            },
            "phases": [self._phase_json(phase) for phase in self.phases],
            "gpu_hours": {
                "sft": self.sft_hours,
                "sft_paper": PAPER_SFT,
                "sft_paper_session_tokens": self.paper_session_tokens,
                "discriminators_and_dpo": self.training_hours,
                "discriminators_and_dpo_paper": PAPER_ITERATION,
                "iteration": self.iteration_hours,
                "run": self.run_hours,
            },
            "assumptions": to_dict(self.assumed),
        }

    def _phase_json(self, phase: Phase) -> dict[str, Any]:
        return {
            "name": phase.name,
            "lines": phase.lines,
            "times": phase.times,
            "tokens": round(phase.tokens),
            "seconds": phase.seconds,
            "gpu_hours": phase.gpu_hours,
            "host_gib": self.host_bytes(phase) / GIB,
            "processes": [
                {
                    "name": one.process.name,
                    "gpus": [f"{seat.node}:{seat.index}" for seat in one.seats],
                    "share": one.process.gpus,
                    "gib": {kind: value / GIB for kind, value in one.process.memory.by_kind().items()},
                    "total_gib": one.process.memory.total / GIB,
                }
                for one in phase.placed
            ],
            "notes": list(phase.notes),
        }


def plan_run(config: RunConfig, gpus: Gpus, assumed: Assumptions = Assumptions()) -> Plan:
    """Returns the plan of a run, whether or not it fits.

    Args:
        config: the run's configuration.
        gpus: the hardware.
        assumed: what the configuration does not say.

    Raises:
        ConfigError: the shape of a model is not known.
    """
    planner = Planner(config, gpus, assumed)
    phases = tuple(_phases(planner))
    if not any(one.seats for phase in phases for one in phase.placed):
        planner.problems.append(
            "no process reserves a GPU; set num_gpus of engines, train and scoring, as in conf/esconv_h100.yaml"
        )
    engines = sum(e.replicas * e.num_cpus for e in config.engines.values())
    training = config.train.num_workers * config.train.num_cpus
    simulator = config.engines["simulator"]
    scoring = config.scoring.replicas * config.scoring.num_cpus + simulator.replicas * simulator.num_cpus
    cpus = engines + training if planner.keeps else max(engines, training, scoring)
    return Plan(
        name=config.name,
        gpus=gpus,
        assumed=assumed,
        models=planner.models,
        keeps_engines=planner.keeps,
        phases=phases,
        problems=tuple(dict.fromkeys(planner.problems)),
        num_cpus=cpus,
        sft_sessions=planner.sizes.sft_sessions,
    )


def _phases(planner: Planner) -> list[Phase]:
    """Returns the run's phases, in order."""
    config, models = planner.config, planner.models
    first = []
    if config.simulator.adapter is None:
        first.append(training_phases.sft(planner, "sft", training_phases.SFT, models.simulator.shape))
    trained = {s.engine for s in config.chatbots.values() if s.kind == "engine" and s.adapter == "trained"}
    for name in sorted(trained):
        title = f"SFT of a chatbot on the engine {name}"
        first.append(training_phases.sft(planner, "chatbot_sft", title, models.engines[name].shape))
    return [
        *first,
        serving_phases.conversations(planner),
        training_phases.discriminators(planner),
        *([] if config.further_sft == "never" else [training_phases.further_sft(planner)]),
        serving_phases.preferences(planner),
        training_phases.dpo(planner),
    ]
