"""Runs the measured steps of a configuration one after the other, each in a process of its own."""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from launch.measure import steps
from launch.measure.child import Job, Peak, run_in_child
from launch.measure.models import model_here
from launch.plan import training_phases
from launch.plan.assumptions import Assumptions
from launch.plan.hardware import GIB, Gpus
from launch.run.config.run import RunConfig
from rlenv.core.errors import ConfigError

TIMEOUT_S = 3600.0


@dataclass(frozen=True)
class Measured:
    """One phase: what was predicted and what was found. Sizes are bytes."""

    phase: str
    step: steps.Step | None = None
    peak: Peak | None = None
    held: float | None = None
    """What the process took from the system or the GPU: with the gaps that its allocator keeps for reuse."""
    reason: str = ""
    """Why nothing was measured."""

    @property
    def difference(self) -> float | None:
        """How far the prediction is above the measurement, as a share of it."""
        if self.step is None or self.peak is None:
            return None
        return self.step.predicted.total / self.peak.used - 1

    def to_json(self) -> dict[str, Any]:
        """Returns the measurement as plain values, with memory in GiB."""
        if self.step is None or self.peak is None:
            return {"phase": self.phase, "measured_gib": None, "reason": self.reason}
        return {
            "phase": self.phase,
            "rows": self.step.what,
            "device": self.step.job.device,
            "predicted_gib": {kind: value / GIB for kind, value in self.step.predicted.by_kind().items()},
            "predicted_total_gib": self.step.predicted.total / GIB,
            "measured_gib": self.peak.used / GIB,
            "difference": self.difference,
            "held_gib": None if self.held is None else self.held / GIB,
        }


def machine(device: str) -> str:
    """Returns the machine in words."""
    if device == "cpu":
        return f"{os.cpu_count()} CPU cores ({platform.machine()}), no GPU used"
    import torch

    card = torch.cuda.get_device_properties(0)
    return f"{torch.cuda.device_count()} x {card.name} of {card.total_memory / GIB:.0f} GiB"


def device_here(config: RunConfig, gpus: Gpus | None) -> str:
    """Returns the device of the training workers.

    Args:
        config: the run.
        gpus: the hardware that was asked for, if it was.

    Raises:
        ConfigError: it is not there.
    """
    import torch

    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    there = f"this machine has {found or 'no'} GPU{'s' * (found != 1)}"
    if gpus is not None and gpus.total > found:
        raise ConfigError(
            f"--gpus {gpus}: --measure runs on the hardware that is here, and {there}; leave --gpus out, or --measure"
        )
    if config.train.num_gpus and not found:
        raise ConfigError(
            f"train.num_gpus is {config.train.num_gpus:g}, but {there}; set train.num_gpus to 0 to measure on the CPU, "
            "or leave --measure out for the arithmetic alone"
        )
    return "cuda" if config.train.num_gpus else "cpu"


def measure_run(
    config: RunConfig,
    *,
    gpus: Gpus | None = None,
    assumed: Assumptions = Assumptions(),
    tokens: int | None = None,
    on_start: Callable[[str], None] = lambda _: None,
) -> list[Measured]:
    """Returns what each training phase and each engine of a run needs here, in the run's order.

    Args:
        config: the run.
        gpus: the hardware that was asked for, if it was.
        assumed: what the configuration does not say.
        tokens: the longest row to use; None uses the longest that the settings allow.
        on_start: called with the name of each phase when it begins.

    Raises:
        ConfigError: a model or a GPU is not here, or a row is too short.
    """
    device = device_here(config, gpus)
    with tempfile.TemporaryDirectory(prefix="rlenv-measure-", ignore_cleanup_errors=True) as folder:
        return list(_Run(config, assumed, device, tokens, Path(folder), on_start).all())


class _Run:
    def __init__(
        self,
        config: RunConfig,
        assumed: Assumptions,
        device: str,
        tokens: int | None,
        root: Path,
        on_start: Callable[[str], None],
    ) -> None:
        self.config, self.root, self.on_start = config, root, on_start
        simulator = model_here("simulator.model", config.simulator.model, root)
        likelihood = config.discriminator.kind == "likelihood"
        backbone = simulator if likelihood else model_here("backbone", config.backbone, root)
        self.here = steps.Here(config, assumed, device, simulator, backbone, tokens)

    def all(self) -> list[Measured]:
        """Returns every measurement."""
        here, out, found = self.here, self.root / training_phases.SFT / "out", []
        adapter, missing = self.config.simulator.adapter, ""
        if adapter is None:
            phase = training_phases.SFT
            first = self._measured(
                phase, lambda: steps.sft(here, "sft", phase, here.simulator, self.config.simulator.model, out)
            )
            found.append(first)
            adapter = str(out)
            missing = f"it starts from the adapter of {phase!r}, and there is none" if first.peak is None else ""
        for name in steps.chatbots(self.config):
            found.append(self._chatbot(name))
        later = (
            (training_phases.DISCRIMINATORS, steps.discriminator, self.config.discriminator.kind == "likelihood"),
            (training_phases.DPO, steps.dpo, True),
        )
        for phase, make, needs_adapter in later:
            if needs_adapter and missing:
                found.append(Measured(phase, reason=missing))
                continue
            place = self.root / phase / "out"
            found.append(self._measured(phase, lambda m=make, p=phase, o=place: m(here, p, adapter, o)))  # type: ignore[misc]
        return [*found, *(self._engine(name) for name in sorted(self.config.engines))]

    def _chatbot(self, name: str) -> Measured:
        phase = f"SFT of a chatbot on the engine {name}"
        model = self.config.engines[name].model
        model = self.config.simulator.model if model == "auto" else model
        folder = model_here(f"engines.{name}.model", model, self.root)
        out = self.root / phase / "out"
        return self._measured(phase, lambda: steps.sft(self.here, "chatbot_sft", phase, folder, model, out))

    def _engine(self, name: str) -> Measured:
        settings, phase = self.config.engines[name], f"engine {name}"
        if not settings.on_cpu and not _gpus():
            return Measured(phase, reason=f"engines.{name}.num_gpus is {settings.num_gpus:g}, and no GPU is here")
        model = settings.model
        if settings.backend != "scripted":
            known = self.here.simulator if model == "auto" else model_here(f"engines.{name}.model", model, self.root)
            model = known[0]
        replaced = replace(settings, model=model, name=name, log_dir=str(self.root / "logs"))
        return self._measured(phase, lambda: steps.engine(self.here, name, replaced))

    def _measured(self, phase: str, make: Callable[[], steps.Step]) -> Measured:
        """Returns the measurement of a step, in one process, and on a CPU in a second one with training's allocator."""
        self.on_start(phase)
        try:
            step = make()
        except ConfigError as error:
            if str(error).startswith("--tokens"):
                raise
            return Measured(phase, reason=str(error))
        (self.root / phase).mkdir(exist_ok=True)
        peak = run_in_child(step.job, self.root / phase / "process", TIMEOUT_S)
        if isinstance(peak, str):
            return Measured(phase, step, reason=peak)
        if step.job.device != "cpu" or phase.startswith("engine"):
            return Measured(phase, step, peak, peak.held)
        again = run_in_child(_again(step.job), self.root / phase / "held", TIMEOUT_S)
        return Measured(phase, step, peak, None if isinstance(again, str) else again.used)


def _again(job: Job) -> Job:
    """Returns the job with training's own allocator, and with another folder for its result."""
    *payload, out = job.payload
    other = [f"{each}-again" for each in out] if isinstance(out, list) else f"{out}-again"
    return replace(job, keeps_freed=True, payload=(*payload, other))


def _gpus() -> int:
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else 0
