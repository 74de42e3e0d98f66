"""A run's configuration: every section, and what must hold between them.

The sections stand beside the code that they configure (``rlenv.core.settings``). Defaults are the paper's numbers; a
YAML file says only what differs, and ``launch.run.settings`` reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, NonNegativeInt, PlainSerializer, PositiveInt

from actors.engines.config import EngineConfig
from actors.scoring import ScoringConfig
from launch.run.tracking import TrackingConfig
from rlenv.core.errors import there_are
from rlenv.core.settings import Settings, settings
from rlenv.core.types import Sampling
from rlenv.env.conversation import Limits
from rlenv.learning.preferences import PreferencesConfig
from rlenv.population.chatbots.faults import FAULT_HABITS
from rlenv.population.chatbots.scripted import chatbot_names
from rlenv.prompting.context import ContextConfig
from trainers.backend.config import TrainResources
from trainers.discriminator.config import DiscriminatorConfig
from trainers.dpo.config import DpoConfig
from trainers.pretrain.config import PretrainConfig
from trainers.sft.config import SftConfig

SAMPLING_KEYS = {"temperature", "top_p", "top_k", "max_tokens"}
Rate = Annotated[float, Field(ge=0, le=1)]


def _for_all_replies(sampling: Sampling) -> Sampling:
    if given := sorted(sampling.model_fields_set - SAMPLING_KEYS):
        raise ValueError(f"{', '.join(given)} is for one request; {there_are(SAMPLING_KEYS, '')}")
    return sampling


ReplySampling = Annotated[
    Sampling,
    AfterValidator(_for_all_replies),
    PlainSerializer(lambda sampling: sampling.model_dump(include=SAMPLING_KEYS)),
]
"""How all replies of a speaker are sampled; the seed and what stops a reply are each request's own."""


@settings
class PopulationConfig(Settings):
    """The embedded reference population (synthetic), where no data are given."""

    num_users: PositiveInt = 400
    """Real users to hold sessions with."""
    sessions_per_user: PositiveInt = 1
    """Sessions of each."""
    num_pretrain_users: NonNegativeInt = 600
    """Further users, whose sessions the small Llama is pretrained on; never seen again."""
    chatbots: list[str] = field(default_factory=list)
    """Scripted chatbots that the real users meet; empty is all."""
    pretrain_chatbots: list[str] = field(default_factory=list)
    """Scripted chatbots that the pretraining users meet; empty is all."""
    pretrain_habits: dict[str, Rate] = field(default_factory=dict)
    """Failure habits, as rates per message, in place of those chatbots' own: only where failures are common does a
    small model learn in its few minutes that users answer them."""

    def problems(self) -> list[str]:
        """Returns which names are none of the population's."""
        problems = [
            f"pretrain_habits: unknown habit {name!r}; {there_are(FAULT_HABITS, name)}"
            for name in sorted(set(self.pretrain_habits) - FAULT_HABITS)
        ]
        for where in ("chatbots", "pretrain_chatbots"):
            unknown = [name for name in getattr(self, where) if name not in chatbot_names()]
            problems += [f"{where}: no scripted chatbot {n!r}; {there_are(chatbot_names(), n)}" for n in unknown]
        return problems


@settings
class DataConfig(Settings):
    """Where the real sessions come from and how users are divided."""

    path: str | None = None
    """Sessions file (JSON lines, plain or gzipped); None takes the embedded reference population."""
    population: PopulationConfig = PopulationConfig()
    """Size of the embedded population."""
    sft_share: float = Field(0.5, gt=0, lt=1)
    """Share of sessions whose users train the base simulator."""
    adversarial_share: float = Field(0.35, gt=0, lt=1)
    """Share whose users give the contexts of the adversarial phases."""
    evaluation_share: float = Field(0.15, gt=0, lt=1)
    """Share whose users are kept for evaluation: nothing is trained on them."""
    min_user_turns: NonNegativeInt = 2
    """Sessions with fewer user messages are left out, and counted."""
    max_sft_sessions: PositiveInt | None = None
    """Cap of the base simulator's sessions; None is all."""

    def problems(self) -> list[str]:
        """Returns whether the shares are a whole."""
        shares = (self.sft_share, self.adversarial_share, self.evaluation_share)
        right = abs(sum(shares) - 1) <= 1e-6
        return [] if right else [f"sft_share: the three shares must sum to 1, got {' + '.join(map(str, shares))}"]


SpeakerKind = Literal["engine", "endpoint", "callable", "population"]


@settings
class SpeakerConfig(Settings):
    """Who sits in a seat: a model on an engine, an endpoint, a Python callable or a scripted chatbot."""

    kind: SpeakerKind = "engine"
    """What it is."""
    engine: str = "simulator"
    """kind engine: which of ``engines`` samples it."""
    adapter: str | None = None
    """kind engine: an adapter's folder; "trained" fine-tunes one on the seat's side of the SFT sessions."""
    system_prompt: str | None = None
    """Text of the system message; None is a support chatbot's, or the simulator's instruction in the user's seat."""
    sees_context: bool = True
    """A chatbot reads profile, earlier summaries and earlier sessions; never the current session's summary."""
    sampling: ReplySampling = Sampling()
    """How replies are sampled."""
    base_url: str | None = None
    """kind endpoint: the API's root."""
    model: str | None = None
    """kind endpoint: the model's name there."""
    api_key_env: str | None = None
    """kind endpoint: name of the environment variable that holds the key."""
    function: str | None = None
    """kind callable: ``package.module:name`` of a function (messages, seed) -> str."""
    name: str | None = None
    """kind population: the scripted chatbot's name; None is the roster's key."""
    habits: dict[str, Rate] = field(default_factory=dict)
    """kind population: failure habits whose rates differ from the scripted chatbot's own."""

    def problems(self) -> list[str]:
        """Returns what a speaker of this kind lacks."""
        needed = {"endpoint": ("base_url", "model"), "callable": ("function",)}.get(self.kind, ())
        return [f"{name}: a speaker of kind {self.kind} needs one" for name in needed if not getattr(self, name)]


@settings
class CollectConfig(Settings):
    """Which conversations are simulated (Section 4.2)."""

    num_contexts: PositiveInt = 1000
    """Contexts of the adversarial users and of the evaluation users together; fewer where the data have fewer."""
    simulations_per_context: PositiveInt = 2
    """Conversations held for each context."""
    assignment: Literal["balanced", "random", "as_real"] = "balanced"
    """Who talks to whom: every chatbot equally often, drawn at random, or the chatbot of the real session."""
    opener: Literal["as_real", "user", "chatbot"] = "as_real"
    """Who speaks first."""
    concurrency: PositiveInt = 256
    """Conversations under way at the same time."""
    max_failed_share: Rate = 0.05
    """A collection with more failed conversations than this stops the run."""


@settings
class SimulatorConfig(Settings):
    """The user simulator: its base model and how it speaks."""

    model: str = "meta-llama/Llama-3.3-70B-Instruct"
    """Checkpoint folder or hub name; "population-llama" is rlenv's own, "small-llama" trains one first, "smollm2" takes
    it from its package."""
    sampling: ReplySampling = Sampling()
    """How user messages are sampled."""
    adapter: str | None = None
    """An adapter to start from in place of the base simulator's SFT."""


@settings
class RayConfig(Settings):
    """The cluster."""

    address: str | None = None
    """Of a running cluster ("auto" finds it); None starts one for the run, unless RAY_ADDRESS is set."""
    num_cpus: PositiveInt | None = None
    """Logical CPUs of a cluster started for the run; None counts them."""
    num_gpus: NonNegativeInt | None = None
    """Logical GPUs of a cluster started for the run; None counts them."""


@settings
class RunConfig(Settings):
    """Everything of one adversarial run. Defaults are the paper's; see conf/paper.yaml for where each stands."""

    name: str = "adversarial"
    """The run's name in tracking."""
    out_dir: str = "runs/adversarial"
    """The run directory."""
    seed: int = 0
    """Everything random follows from it."""
    num_iterations: NonNegativeInt = 3
    """Adversarial iterations: the last simulator is it{num_iterations}."""
    data: DataConfig = DataConfig()
    """Real sessions."""
    context: ContextConfig = ContextConfig()
    """The context c of Section 3.2."""
    simulator: SimulatorConfig = SimulatorConfig()
    """pi_theta."""
    pretrain: PretrainConfig = PretrainConfig()
    """The small Llama, where simulator.model or the discriminator's backbone is "small-llama"."""
    sft: SftConfig = SftConfig()
    """Base simulator (Eq. 1)."""
    chatbot_sft: SftConfig = SftConfig()
    """Chatbots whose adapter is "trained"."""
    engines: dict[str, EngineConfig] = field(
        default_factory=lambda: {"simulator": EngineConfig(model="auto", max_model_len=32_768)}
    )
    """Pools by name; "simulator" serves the simulator. A model of "auto" is the simulator's."""
    keep_engines: bool | None = None
    """Keep engines through training phases; None keeps them where the cluster has room for both."""
    chatbots: dict[str, SpeakerConfig] = field(default_factory=dict)
    """The roster; empty takes all scripted chatbots of the reference population."""
    zero_shot: dict[str, SpeakerConfig] = field(default_factory=dict)
    """Untrained models in the user's seat (4.2): simulated with, judged and measured like a version, never trained."""
    env: Limits = Limits()
    """When a conversation is cut."""
    collect: CollectConfig = CollectConfig()
    """Which conversations are simulated."""
    backbone: str = "meta-llama/Llama-3.1-8B-Instruct"
    """The discriminator's: checkpoint folder or hub name, "population-llama", "small-llama" or "smollm2"."""
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    """D_phi (Eq. 3)."""
    preferences: PreferencesConfig = PreferencesConfig()
    """Section 3.5."""
    dpo: DpoConfig = DpoConfig()
    """Eq. 5."""
    train: TrainResources = TrainResources()
    """What each training phase runs on."""
    scoring: ScoringConfig = ScoringConfig()
    """What serves the discriminator."""
    ray: RayConfig = RayConfig()
    """The cluster."""
    tracking: TrackingConfig = TrackingConfig()
    """Weights & Biases."""

    def problems(self) -> list[str]:
        """Returns which engines and adapters do not go together, and which names cannot be."""
        problems = [] if "simulator" in self.engines else ["engines: expected one named simulator"]
        trains_base = self.simulator.adapter is None
        problems += adapter_problems("engines.simulator", self.engines.get("simulator"), "sft", self.sft, trains_base)
        for where, speakers in (("chatbots", self.chatbots), ("zero_shot", self.zero_shot)):
            problems += speaker_problems(where, speakers, self.engines)
        trained = {s.engine for s in self.chatbots.values() if s.kind == "engine" and s.adapter == "trained"}
        for name in sorted(trained):
            problems += adapter_problems(f"engines.{name}", self.engines.get(name), "chatbot_sft", self.chatbot_sft)
        for name, speaker in self.zero_shot.items():
            if speaker.kind == "population" or speaker.adapter == "trained":
                problems.append(f"zero_shot.{name}: a scripted chatbot or a trained adapter is no zero-shot user")
            if not name.isidentifier() or name == "base" or (name[:2] == "it" and name[2:].isdigit()):
                problems.append(f"zero_shot.{name}: the name is a folder's; letters, digits and _, not base or it1 ...")
        return list(dict.fromkeys(problems))


def adapter_problems(
    where: str, engine: EngineConfig | None, section: str, sft: SftConfig, trained: bool = True
) -> list[str]:
    """Returns why an engine cannot serve an adapter: none at all, or not of the rank that a section trains."""
    problems = []
    if engine is not None and engine.max_loras == 0:
        problems.append(f"{where}.max_loras: 0 serves no adapter, and one is asked for; set 1 or more")
    if engine is not None and trained and sft.lora_rank > engine.max_lora_rank:
        problems.append(
            f"{where}.max_lora_rank: expected {section}.lora_rank ({sft.lora_rank}) or more, got {engine.max_lora_rank}"
        )
    return problems


def speaker_problems(
    where: str, speakers: Mapping[str, SpeakerConfig], engines: Mapping[str, EngineConfig], engines_key: str = "engines"
) -> list[str]:
    """Returns which speakers ask for an engine that is not there, or for an adapter on one that serves none."""
    problems = []
    for name, speaker in speakers.items():
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
