"""A run's configuration: typed, from YAML and the command line. The only file that knows OmegaConf.

Frozen dataclasses beside the code they configure hold the defaults, which are the paper's numbers; a YAML file says
only what differs. ``load_config("conf/paper.yaml", ["dpo.beta=0.5"])`` validates without a GPU and reports every
problem it finds at once where it can.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeVar

from actors.engines.config import EngineConfig
from actors.scoring import ScoringConfig
from launch.run.tracking import TrackingConfig
from rlenv.core.errors import ConfigError, there_are
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

T = TypeVar("T")


@dataclass(frozen=True)
class SamplingConfig:
    """How replies are sampled."""

    temperature: float = 1.0
    """0 is greedy."""
    top_p: float = 1.0
    """Nucleus; 1 keeps all."""
    top_k: int = 0
    """0 keeps all."""
    max_tokens: int = 256
    """Cap of one reply."""

    def sampling(self) -> Sampling:
        """Returns the record that engines take."""
        return Sampling(temperature=self.temperature, top_p=self.top_p, top_k=self.top_k, max_tokens=self.max_tokens)


@dataclass(frozen=True)
class PopulationConfig:
    """The embedded reference population (synthetic), where no data are given."""

    num_users: int = 400
    """Real users to hold sessions with."""
    sessions_per_user: int = 1
    """Sessions of each."""
    num_pretrain_users: int = 600
    """Further users, whose sessions the small Llama is pretrained on; never seen again."""
    chatbots: list[str] = field(default_factory=list)
    """Scripted chatbots that the real users meet; empty is all."""
    pretrain_chatbots: list[str] = field(default_factory=list)
    """Scripted chatbots that the pretraining users meet; empty is all."""
    pretrain_habits: dict[str, float] = field(default_factory=dict)
    """Failure habits, as rates per message, in place of those chatbots' own: only where failures are common does a
    small model learn in its few minutes that users answer them."""

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.pretrain_habits) - FAULT_HABITS):
            raise ConfigError(
                f"data.population.pretrain_habits: unknown habit {unknown[0]!r}; {there_are(FAULT_HABITS, unknown[0])}"
            )
        for where in ("chatbots", "pretrain_chatbots"):
            if unknown := [name for name in getattr(self, where) if name not in chatbot_names()]:
                known = there_are(chatbot_names(), unknown[0])
                raise ConfigError(f"data.population.{where}: no scripted chatbot {unknown[0]!r}; {known}")


@dataclass(frozen=True)
class DataConfig:
    """Where the real sessions come from and how users are divided."""

    path: str | None = None
    """Sessions file (JSON lines, plain or gzipped); None takes the embedded reference population."""
    population: PopulationConfig = PopulationConfig()
    """Size of the embedded population."""
    sft_share: float = 0.5
    """Share of sessions whose users train the base simulator."""
    adversarial_share: float = 0.35
    """Share whose users give the contexts of the adversarial phases."""
    evaluation_share: float = 0.15
    """Share whose users are kept for evaluation: nothing is trained on them."""
    min_user_turns: int = 2
    """Sessions with fewer user messages are left out, and counted."""
    max_sft_sessions: int | None = None
    """Cap of the base simulator's sessions; None is all."""

    def __post_init__(self) -> None:
        shares = (self.sft_share, self.adversarial_share, self.evaluation_share)
        if min(shares) <= 0 or abs(sum(shares) - 1) > 1e-6:
            raise ConfigError(f"data: the three shares must be above 0 and sum to 1, got {shares}")


SpeakerKind = Literal["engine", "endpoint", "callable", "population"]


@dataclass(frozen=True)
class SpeakerConfig:
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
    sampling: SamplingConfig = SamplingConfig()
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
    habits: dict[str, float] = field(default_factory=dict)
    """kind population: failure habits whose rates differ from the scripted chatbot's own."""

    def __post_init__(self) -> None:
        if self.kind == "endpoint" and not (self.base_url and self.model):
            raise ConfigError("a speaker of kind endpoint needs base_url and model")
        if self.kind == "callable" and not self.function:
            raise ConfigError("a speaker of kind callable needs function: package.module:name")


@dataclass(frozen=True)
class CollectConfig:
    """Which conversations are simulated (Section 4.2)."""

    num_contexts: int = 1000
    """Contexts of the adversarial users and of the evaluation users together; fewer where the data have fewer."""
    simulations_per_context: int = 2
    """Conversations held for each context."""
    assignment: Literal["balanced", "random", "as_real"] = "balanced"
    """Who talks to whom: every chatbot equally often, drawn at random, or the chatbot of the real session."""
    opener: Literal["as_real", "user", "chatbot"] = "as_real"
    """Who speaks first."""
    concurrency: int = 256
    """Conversations under way at the same time."""
    max_failed_share: float = 0.05
    """A collection with more failed conversations than this stops the run."""


@dataclass(frozen=True)
class SimulatorConfig:
    """The user simulator: its base model and how it speaks."""

    model: str = "meta-llama/Llama-3.3-70B-Instruct"
    """Checkpoint folder or hub name; "population-llama" is rlenv's own, "small-llama" trains one first, "smollm2" takes
    it from its package."""
    sampling: SamplingConfig = SamplingConfig()
    """How user messages are sampled."""
    adapter: str | None = None
    """An adapter to start from in place of the base simulator's SFT."""


@dataclass(frozen=True)
class RayConfig:
    """The cluster."""

    address: str | None = None
    """Of a running cluster ("auto" finds it); None starts one for the run, unless RAY_ADDRESS is set."""
    num_cpus: int | None = None
    """Logical CPUs of a cluster started for the run; None counts them."""
    num_gpus: int | None = None
    """Logical GPUs of a cluster started for the run; None counts them."""


@dataclass(frozen=True)
class RunConfig:
    """Everything of one adversarial run. Defaults are the paper's; see conf/paper.yaml for where each stands."""

    name: str = "adversarial"
    """The run's name in tracking."""
    out_dir: str = "runs/adversarial"
    """The run directory."""
    seed: int = 0
    """Everything random follows from it."""
    num_iterations: int = 3
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
    engines: dict[str, EngineConfig] = field(default_factory=lambda: {"simulator": EngineConfig(model="auto")})
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

    def __post_init__(self) -> None:
        problems = []
        if self.num_iterations < 0:
            problems.append(f"num_iterations must be 0 or more, got {self.num_iterations}")
        if "simulator" not in self.engines:
            problems.append("engines needs one named simulator")
        for where, speakers in (("chatbots", self.chatbots), ("zero_shot", self.zero_shot)):
            for name, speaker in speakers.items():
                if speaker.kind == "engine" and speaker.engine not in self.engines:
                    problems.append(f"{where}.{name}.engine is {speaker.engine!r}; engines has {sorted(self.engines)}")
        for name, speaker in self.zero_shot.items():
            if speaker.kind == "population" or speaker.adapter == "trained":
                problems.append(f"zero_shot.{name}: a scripted chatbot or a trained adapter is no zero-shot user")
            if not name.isidentifier() or name == "base" or (name[:2] == "it" and name[2:].isdigit()):
                problems.append(f"zero_shot.{name}: the name is a folder's; letters, digits and _, not base or it1 ...")
        if problems:
            raise ConfigError("; ".join(problems))
