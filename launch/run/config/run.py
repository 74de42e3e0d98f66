"""A run's configuration: its sections, and the rules between them.

Most sections are defined beside the code that they configure (see ``rlenv.core.settings``). Defaults are the paper's
numbers; a YAML file has only what differs, and ``launch.run.settings`` reads it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import field
from typing import Annotated, Literal

from pydantic import (
    Field,
    NonNegativeInt,
    PositiveInt,
)

from actors.engines.config import EngineConfig
from actors.scoring import ScoringConfig
from launch.run.config.data import DataConfig
from launch.run.config.speaker import ReplySampling, SpeakerConfig, speaker_problems
from launch.tracking.config import TrackingConfig
from rlenv.core.settings import Name, Rate, Settings, settings
from rlenv.core.types import Sampling
from rlenv.env.conversation import Limits
from rlenv.learning.preferences import PreferencesConfig
from rlenv.prompting.context import ContextConfig
from trainers.backend.config import TrainResources
from trainers.discriminator.config import DiscriminatorConfig
from trainers.dpo.config import DpoConfig
from trainers.pretrain.config import PretrainConfig
from trainers.sft.config import SftConfig


@settings
class CollectConfig(Settings):
    """Which conversations are simulated (Section 4.2)."""

    num_contexts: PositiveInt = 1000
    """Contexts of the adversarial users and of the evaluation users together; fewer where the data have fewer."""
    simulations_per_context: PositiveInt = 2
    """Conversations per context."""
    assignment: Literal["balanced", "random", "as_real"] = "balanced"
    """How chatbots are assigned: each equally often, at random, or the chatbot of the real session."""
    opener: Literal["as_real", "user", "chatbot"] = "as_real"
    """Who speaks first."""
    concurrency: PositiveInt = 256
    """Conversations in progress at the same time."""
    max_failed_share: Rate = 0.05
    """The run stops if a larger share of conversations fails."""


@settings
class SimulatorConfig(Settings):
    """The user simulator: its base model and its sampling."""

    model: Name = "meta-llama/Llama-3.3-70B-Instruct"
    """Checkpoint folder or hub name. "population-llama" ships with rlenv; "small-llama" is trained by the run;
    "smollm2" comes from its Python package."""
    sampling: ReplySampling = Sampling()
    """How user messages are sampled."""
    adapter: Name | None = None
    """Folder of an adapter to start from, in place of the base simulator's SFT."""


@settings
class RayConfig(Settings):
    """The Ray cluster."""

    address: Name | None = None
    """Address of a running cluster ("auto" finds it); None starts one for the run, unless RAY_ADDRESS is set."""
    num_cpus: PositiveInt | None = None
    """Logical CPUs of a cluster started for the run; None counts them."""
    num_gpus: NonNegativeInt | None = None
    """Logical GPUs of a cluster started for the run; None counts them."""


@settings
class RunConfig(Settings):
    """The settings of one adversarial run. Defaults are the paper's; conf/paper.yaml names the page of each."""

    name: Name = "adversarial"
    """The run's name in tracking."""
    out_dir: Name = "runs/adversarial"
    """The run directory."""
    seed: int = 0
    """The seed of everything random in the run."""
    num_iterations: NonNegativeInt = 3
    """Number of adversarial iterations; the last simulator is it{num_iterations}."""
    data: DataConfig = DataConfig()
    """Real sessions."""
    context: ContextConfig = ContextConfig()
    """The context c of Section 3.2."""
    simulator: SimulatorConfig = SimulatorConfig()
    """The user simulator, pi_theta."""
    pretrain: PretrainConfig = PretrainConfig()
    """The small Llama's pretraining, where simulator.model or backbone is "small-llama"."""
    sft: SftConfig = SftConfig()
    """SFT of the base simulator (Eq. 1)."""
    chatbot_sft: SftConfig = SftConfig()
    """SFT of chatbots whose adapter is "trained"."""
    engines: dict[str, EngineConfig] = field(
        default_factory=lambda: {"simulator": EngineConfig(model="auto", max_model_len=32_768)}
    )
    """Engine pools by name; "simulator" serves the simulator. The model "auto" is the simulator's."""
    keep_engines: bool | None = None
    """Whether engines stay up during training phases; None keeps them where the cluster has room for both."""
    chatbots: dict[str, SpeakerConfig] = field(default_factory=dict)
    """The chatbots; empty is all scripted chatbots of the reference population."""
    zero_shot: dict[str, SpeakerConfig] = field(default_factory=dict)
    """Untrained models in the user's seat (4.2), evaluated like a simulator version and never trained."""
    env: Limits = Limits()
    """The caps at which a conversation is truncated."""
    collect: CollectConfig = CollectConfig()
    """Which conversations are simulated."""
    backbone: Name = "meta-llama/Llama-3.1-8B-Instruct"
    """The discriminator's base model: checkpoint folder or hub name, "population-llama", "small-llama" or "smollm2"."""
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    """The discriminator, D_phi (Eq. 3)."""
    preferences: PreferencesConfig = PreferencesConfig()
    """Preference pairs (Section 3.5)."""
    dpo: DpoConfig = DpoConfig()
    """DPO of the simulator (Eq. 5)."""
    accept: Literal["always", "fresh_judge"] = "always"
    """``always``, as in the paper. ``fresh_judge`` takes a new version only if its own, fresh discriminator finds it
    harder to tell than its predecessor, on the adversarial users out of fold; else the predecessor is trained again
    with half the learning rate. A version that is not taken stays in the run and in the table, and counts as an
    iteration."""
    accept_margin: float = Field(default=1.0, ge=0)
    """With ``fresh_judge``: by how many standard errors the accuracy must fall."""
    most_tries: PositiveInt = 3
    """With ``fresh_judge``: versions in a row that are not taken before the run ends."""
    stop: Literal["never", "at_chance"] = "never"
    """``at_chance`` ends the run when neither the discriminator nor a referee tells the newest version from people."""
    further_sft: Literal["never", "row", "first"] = "never"
    """The honest baseline: the base simulator, fine-tuned further on the real sessions of the adversarial users, which
    the discriminator has seen. ``row`` adds it to the table; ``first`` makes it a version, from which DPO goes on."""
    resampled: list[Annotated[int, Field(ge=2)]] = field(default_factory=list)
    """Add rows for the newest version with each message drawn from so many candidates by its own discriminator."""
    train: TrainResources = TrainResources()
    """Workers, CPUs and GPUs of each training phase."""
    scoring: ScoringConfig = ScoringConfig()
    """How the discriminator is served."""
    ray: RayConfig = RayConfig()
    """The Ray cluster."""
    tracking: TrackingConfig = TrackingConfig()
    """Weights & Biases."""

    def problems(self) -> list[str]:
        """Returns the engines and adapters that do not fit each other, and the names that cannot be used."""
        problems = [] if "simulator" in self.engines else ["engines: expected an engine named simulator"]
        trains_base = self.simulator.adapter is None
        problems += adapter_problems("engines.simulator", self.engines.get("simulator"), "sft", self.sft, trains_base)
        for where, speakers in (("chatbots", self.chatbots), ("zero_shot", self.zero_shot)):
            problems += speaker_problems(where, speakers, self.engines)
        if self.dpo.blocks_from is not None and not self.train.num_gpus:
            problems.append("dpo.blocks_from: training by block masks needs a GPU (train.num_gpus); set it to null")
        trained = {s.engine for s in self.chatbots.values() if s.kind == "engine" and s.adapter == "trained"}
        for name in sorted(trained):
            problems += adapter_problems(f"engines.{name}", self.engines.get(name), "chatbot_sft", self.chatbot_sft)
        if self.discriminator.kind != "likelihood":
            problems += [
                f"{name}: {value!r} judges out of fold, which only discriminator.kind 'likelihood' does; set it, or "
                f"{name} to {default!r}"
                for name, value, default in (("accept", self.accept, "always"), ("stop", self.stop, "never"))
                if value != default
            ]
        for name, speaker in self.zero_shot.items():
            if speaker.kind == "population" or speaker.adapter == "trained":
                problems.append(f"zero_shot.{name}: a scripted chatbot or a trained adapter cannot be zero-shot")
            if not name.isidentifier() or name in ("base", "further_sft") or (name[:2] == "it" and name[2:].isdigit()):
                problems.append(
                    f"zero_shot.{name}: the name becomes a folder; use letters, digits and _, not base or it1 ..."
                )
        return list(dict.fromkeys(problems))


def adapter_problems(
    where: str, engine: EngineConfig | None, section: str, sft: SftConfig, trained: bool = True
) -> list[str]:
    """Returns why an engine cannot serve an adapter: it serves none, or not the rank that a section trains."""
    problems = []
    if engine is not None and engine.max_loras == 0:
        problems.append(f"{where}.max_loras: 0 serves no adapter, but one is needed; set 1 or more")
    if engine is not None and trained and sft.lora_rank > engine.max_lora_rank:
        problems.append(
            f"{where}.max_lora_rank: expected {section}.lora_rank ({sft.lora_rank}) or more, got {engine.max_lora_rank}"
        )
    return problems


Beside = Callable[[float, float], float]
"""Of the resources that training and scoring need: ``max`` where they take turns, else ``operator.add``."""


def keeps_engines(config: RunConfig, cpus: float, gpus: float) -> bool:
    """Returns whether engines stay up during training and scoring: as configured, or where there is room for both.

    Args:
        config: the run's configuration.
        cpus: CPUs of the cluster.
        gpus: GPUs of the cluster.
    """
    return has_room(config, cpus, gpus, max) if config.keep_engines is None else config.keep_engines


def has_room(config: RunConfig, cpus: float, gpus: float, beside: Beside) -> bool:
    """Returns whether there is room for all engines and, beside them, for training and scoring."""
    train, scoring, engines = config.train, config.scoring, config.engines.values()
    cpus_needed = sum(e.replicas * e.num_cpus for e in engines)
    gpus_needed = sum(e.replicas * e.num_gpus for e in engines)
    cpus_needed += beside(train.num_workers * train.num_cpus, scoring.replicas * scoring.num_cpus)
    gpus_needed += beside(train.num_workers * train.num_gpus, scoring.replicas * scoring.num_gpus)
    return cpus_needed <= cpus and gpus_needed <= gpus
