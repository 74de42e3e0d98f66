"""A run's configuration: its sections, and the rules between them.

Most sections are defined beside the code that they configure (see ``rlenv.core.settings``). Defaults are the paper's
numbers; a YAML file has only what differs, and ``launch.run.settings`` reads it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PlainSerializer,
    PositiveFloat,
    PositiveInt,
)

from actors.engines.config import EngineConfig
from actors.scoring import ScoringConfig
from launch.tracking.config import TrackingConfig
from rlenv.core.errors import there_are
from rlenv.core.settings import Settings, settings
from rlenv.core.types import Sampling
from rlenv.env.conversation import Limits
from rlenv.learning.preferences import PreferencesConfig
from rlenv.population.chatbots.faults import FAULT_HABITS
from rlenv.population.chatbots.scripted import chatbot_names
from rlenv.population.users.traits import factor_problems, trait_problems
from rlenv.prompting.context import ContextConfig
from rlenv.speakers.outside import secret_problems
from trainers.backend.config import TrainResources
from trainers.discriminator.config import DiscriminatorConfig
from trainers.dpo.config import DpoConfig
from trainers.pretrain.config import PretrainConfig
from trainers.sft.config import SftConfig

SAMPLING_KEYS = {"temperature", "top_p", "top_k", "max_tokens"}
Rate = Annotated[float, Field(ge=0, le=1)]
Name = Annotated[str, Field(min_length=1)]
"""The name of something, or the path to it. An empty one is never the same as none."""


def _numbers(values: Any) -> Any:
    if isinstance(values, Mapping) and (wrong := sorted(k for k, v in values.items() if isinstance(v, bool))):
        raise ValueError(f"expected numbers, got true or false for {', '.join(wrong)}")
    return values


def _without_request_fields(sampling: Sampling) -> Sampling:
    if given := sorted(sampling.model_fields_set - SAMPLING_KEYS):
        raise ValueError(f"{', '.join(given)} cannot be set for all replies; {there_are(SAMPLING_KEYS, '')}")
    return sampling


ReplySampling = Annotated[
    Sampling,
    BeforeValidator(_numbers),
    AfterValidator(_without_request_fields),
    PlainSerializer(lambda sampling: sampling.model_dump(include=SAMPLING_KEYS)),
]
"""How all replies of a speaker are sampled. The seed and the stop conditions are set by each request."""


@settings
class PopulationConfig(Settings):
    """The embedded reference population (synthetic), used where no data are given."""

    num_users: PositiveInt = 400
    """Number of users whose sessions are the real data."""
    sessions_per_user: PositiveInt = 1
    """Sessions of each user."""
    num_pretrain_users: NonNegativeInt = 600
    """Number of further users for pretraining the small Llama; used for nothing else."""
    skip_pretrain_users: NonNegativeInt = 0
    """Pretraining users that an earlier training has seen (``pretrain.start``) and that are left out."""
    chatbots: list[str] = field(default_factory=list)
    """Scripted chatbots that the real users talk to; an empty list is all."""
    pretrain_chatbots: list[str] = field(default_factory=list)
    """Scripted chatbots that the pretraining users talk to; an empty list is all."""
    pretrain_habits: dict[str, Rate] = field(default_factory=dict)
    """Failure habits of the pretraining chatbots, as rates per message, in place of their own. A small model learns in
    a few minutes that users react to failures only where failures are common."""
    pretrain_traits: dict[str, list[float] | list[str]] = field(default_factory=dict)
    """Traits that the pretraining users must have, to make them another kind of user than the run's: allowed values of
    a trait in words, or [lowest, highest] of a trait in numbers, such as ``{style: [formal], resistance: [0, 0.4]}``.
    Empty takes all users."""
    pretrain_factors: dict[str, NonNegativeFloat] = field(default_factory=dict)
    """Factors by which numeric traits of the pretraining users are multiplied, to make them another kind of user than
    any in the run, such as ``{words: 0.6, filling: 0.2}``."""

    def problems(self) -> list[str]:
        """Returns the habits, chatbots and traits that the population does not have."""
        problems = [
            f"pretrain_habits: unknown habit {name!r}; {there_are(FAULT_HABITS, name)}"
            for name in sorted(set(self.pretrain_habits) - FAULT_HABITS)
        ]
        for where in ("chatbots", "pretrain_chatbots"):
            unknown = [name for name in getattr(self, where) if name not in chatbot_names()]
            problems += [f"{where}: no scripted chatbot {n!r}; {there_are(chatbot_names(), n)}" for n in unknown]
        problems += [f"pretrain_factors: {problem}" for problem in factor_problems(self.pretrain_factors)]
        return problems + [f"pretrain_traits: {problem}" for problem in trait_problems(self.pretrain_traits)]


@settings
class DataConfig(Settings):
    """The source of the real sessions, and how users are divided into splits."""

    path: Name | None = None
    """Sessions file (JSON lines, plain or gzipped); None is the embedded reference population."""
    population: PopulationConfig = PopulationConfig()
    """The embedded population."""
    scrub: Literal["optional", "required"] = "optional"
    """``required`` refuses a sessions file in which a session carries no mark of ``rlenv scrub``."""
    sft_share: float = Field(default=0.5, gt=0, lt=1)
    """Share of sessions for fine-tuning the base simulator. Splits never share a user."""
    adversarial_share: float = Field(default=0.35, gt=0, lt=1)
    """Share of sessions that give the contexts of the adversarial phases."""
    evaluation_share: float = Field(default=0.15, gt=0, lt=1)
    """Share of sessions kept for evaluation; nothing is trained on their users."""
    min_user_turns: NonNegativeInt = 2
    """Sessions with fewer user messages are left out and counted."""
    max_sft_sessions: PositiveInt | None = None
    """Cap on the base simulator's sessions; None is all."""

    def problems(self) -> list[str]:
        """Returns a problem where the shares do not sum to 1."""
        shares = (self.sft_share, self.adversarial_share, self.evaluation_share)
        whole = abs(sum(shares) - 1) <= 1e-6
        return [] if whole else [f"sft_share: the three shares must sum to 1, got {' + '.join(map(str, shares))}"]


SpeakerKind = Literal["engine", "endpoint", "callable", "population"]


@settings
class SpeakerConfig(Settings):
    """The speaker in a seat: a model on an engine, an endpoint, a Python callable or a scripted chatbot."""

    kind: SpeakerKind = "engine"
    """The kind of speaker."""
    engine: str = "simulator"
    """kind engine: the name in ``engines`` of the engine that serves the model."""
    adapter: Name | None = None
    """kind engine: an adapter's folder; "trained" fine-tunes one on the seat's side of the SFT sessions."""
    system_prompt: str | None = None
    """Text of the system message; None is the default support chatbot's or, in the user's seat, the simulator's
    instruction."""
    sees_context: bool = True
    """Whether a chatbot reads the profile, earlier summaries and earlier sessions; it never reads the current session's
    summary."""
    sampling: ReplySampling = Sampling()
    """How replies are sampled."""
    base_url: Name | None = None
    """kind endpoint: the root URL of the API."""
    model: Name | None = None
    """kind endpoint: the model's name there."""
    api_key_env: Name | None = None
    """kind endpoint: the name of the environment variable that holds the key."""
    allow_external: bool = False
    """kind endpoint: whether conversations may go to an endpoint that is not on this machine."""
    timeout_s: PositiveFloat | None = None
    """kinds endpoint and callable: seconds for one attempt of a request (None is 120), or for a reply of an async
    function (None is 600). No result depends on it, so it may change when a run is resumed."""
    function: Name | None = None
    """kind callable: ``package.module:name`` of a function (messages, seed) -> str."""
    name: Name | None = None
    """kind population: the scripted chatbot's name; None is the roster's key."""
    habits: dict[str, Rate] = field(default_factory=dict)
    """kind population: failure habits whose rates differ from the scripted chatbot's own."""

    def problems(self) -> list[str]:
        """Returns the settings that this kind of speaker needs and lacks."""
        needed = {"endpoint": ("base_url", "model"), "callable": ("function",)}.get(self.kind, ())
        problems = [f"{name}: a speaker of kind {self.kind} needs one" for name in needed if not getattr(self, name)]
        if self.kind == "endpoint" and self.base_url and not self.base_url.startswith(("http://", "https://")):
            problems.append(f"base_url: expected http://... or https://..., got {self.base_url!r}")
        problems += secret_problems(self.base_url, self.api_key_env) if self.kind == "endpoint" else []
        if self.kind == "callable" and self.function and not all(self.function.partition(":")):
            problems.append(f"function: expected package.module:name, got {self.function!r}")
        if self.kind == "population":
            unknown = sorted(set(self.habits) - FAULT_HABITS)
            problems += [f"habits: unknown habit {name!r}; {there_are(FAULT_HABITS, name)}" for name in unknown]
        return problems


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


def speaker_problems(
    where: str, speakers: Mapping[str, SpeakerConfig], engines: Mapping[str, EngineConfig], engines_key: str = "engines"
) -> list[str]:
    """Returns the speakers that do not exist: scripted chatbots, engines, or an adapter's on an engine without LoRA."""
    problems = []
    for name, speaker in speakers.items():
        scripted = speaker.name or name
        if speaker.kind == "population" and where == "chatbots" and scripted not in chatbot_names():
            problems.append(f"{where}.{name}: no scripted chatbot {scripted!r}; {there_are(chatbot_names(), scripted)}")
        if speaker.kind != "engine":
            continue
        if speaker.engine not in engines:
            known = there_are(engines, speaker.engine)
            problems.append(f"{where}.{name}.engine: no engine {speaker.engine!r}; {known}")
        elif speaker.adapter and engines[speaker.engine].max_loras == 0:
            problems.append(
                f"{where}.{name}.adapter: {engines_key}.{speaker.engine}.max_loras is 0, which serves no adapter; "
                "set 1 or more"
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
