"""The settings of a chatbot's reinforcement learning: ``rlenv train-chatbot conf/chatbot_rl.yaml``.

The environment is made from an adversarial run (``launch.serving.config``), and the policy is the chatbot. Engines,
training resources, Ray, conversation limits and tracking are those of the adversarial run, and ``settings`` overrides
them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from pathlib import Path
from typing import Literal

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from launch.run.config.run import adapter_problems
from launch.run.config.speaker import SpeakerConfig
from launch.run.contents import SPLITS
from launch.serving.config import EnvConfig, load_env_config
from launch.serving.judges import JudgeConfig
from rlenv.core.errors import ConfigError, there_are
from rlenv.core.settings import Name, Rate, Settings, settings
from rlenv.core.types import Sampling
from rlenv.learning.simulator_faults import FaultConfig
from trainers.chatbot_rl.config import ChatbotRlConfig

CHATBOT = "chatbot"
TRAINING = "training"


@settings
class ChatbotEvaluationConfig(Settings):
    """How the chatbot is evaluated: before, after and during training, on contexts that training never uses."""

    split: str = "evaluation"
    """The split whose contexts are used."""
    num_contexts: PositiveInt | None = None
    """Maximum number of contexts; None is all."""
    conversations_per_context: PositiveInt = 2
    """Conversations per context, each with its own seed; the same seeds before and after."""
    labels: Literal["oracle", "detectors"] = "oracle"
    """The judge of the chatbot's issues: the reference population's oracle (exact for the population's own users,
    inferred for all others), or the detectors."""
    held_out_judge: JudgeConfig | None = None
    """A second judge of the conversations before and after; it takes no part in any reward."""
    every: NonNegativeInt = 0
    """Rounds between evaluations with the held-out users during training; 0 is never."""
    every_contexts: PositiveInt = 16
    """Contexts of an evaluation during training, with one conversation each."""

    def problems(self) -> list[str]:
        """Returns a problem where there is no such split."""
        return [] if self.split in SPLITS else [f"split: no split {self.split!r}; {there_are(SPLITS, self.split)}"]


@settings
class RefreshConfig(Settings):
    """A refresh: Algorithm 1 run again against the new chatbot, starting from the newest simulator."""

    num_iterations: PositiveInt = 1
    """Iterations of Algorithm 1; the last simulator joins the ensemble."""
    weight: PositiveFloat = 1.0
    """Weight of the new simulator in the ensemble."""


@settings
class ChatbotRunConfig(EnvConfig):
    """The settings of one run that trains a chatbot."""

    name: str = "chatbot-rl"
    """The run's name in tracking."""
    out_dir: Name = "runs/chatbot_rl"
    """The run directory."""
    seed: int = 0
    """The seed of everything random in this run; ``settings.seed`` is the adversarial run's."""
    chatbot: SpeakerConfig = SpeakerConfig(engine=CHATBOT, adapter="trained", sampling=Sampling(max_tokens=100))
    """The policy. Its base model is that of its engine: a folder or hub name, "auto" (the simulator's), "smollm2", or
    "small-llama", which this run trains for the chatbot's seat. Training starts from its adapter: a folder, or
    "trained", which is fine-tuned on the assistant turns of the adversarial run's SFT users."""
    held_out: list[str] = field(default_factory=list)
    """Simulator versions and ``users`` that the chatbot is evaluated with and never trained with."""
    rl: ChatbotRlConfig = ChatbotRlConfig()
    """Rounds, credit and loss."""
    faults: FaultConfig = FaultConfig(quantile=0.0)
    """Lower weights for chatbot messages that a faulty simulator answered. With a quantile above 0, the discriminator
    of ``discriminator`` scores every conversation of a round."""
    alternate_every: NonNegativeInt = 0
    """Rounds between refreshes of the simulator; 0 is never."""
    refresh: RefreshConfig = RefreshConfig()
    """A refresh of the simulator."""
    evaluation: ChatbotEvaluationConfig = ChatbotEvaluationConfig()
    """How the chatbot is evaluated."""
    max_failed_share: Rate = 0.1
    """The run stops if a larger share of the conversations of a round or an evaluation fails."""
    answer_timeout_s: PositiveFloat = 1800.0
    """Seconds without a message, an answer or another sign of progress after which the rollout host counts as hung and
    is restarted."""

    def problems(self) -> list[str]:
        """Returns the broken rules between fields."""
        problems = super().problems()
        chatbot, sampling = self.chatbot, self.chatbot.sampling
        if chatbot.kind != "engine" or not chatbot.adapter:
            problems.append("chatbot: expected kind engine with an adapter to start from: a folder, or trained")
        elif chatbot.engine not in self.settings.engines:
            known = there_are(self.settings.engines, chatbot.engine)
            problems.append(f"chatbot.engine: no engine {chatbot.engine!r} in settings.engines; {known}")
        else:
            engine, where = self.settings.engines[chatbot.engine], f"settings.engines.{chatbot.engine}"
            trained = chatbot.adapter == "trained"
            problems += adapter_problems(where, engine, "settings.chatbot_sft", self.settings.chatbot_sft, trained)
        try:
            self.rl.updates_per_round(self.settings.train.num_workers)
        except ConfigError as error:
            problems.append(str(error))
        if (sampling.top_p, sampling.top_k) != (1.0, 0):
            problems.append(
                "chatbot.sampling: expected top_p 1 and top_k 0; the loss needs log-probs of the whole distribution"
            )
        if sampling.temperature != self.rl.temperature:
            problems.append(
                f"chatbot.sampling.temperature: expected that of the loss, rl.temperature = {self.rl.temperature}, got "
                f"{sampling.temperature}"
            )
        if not self.rewards:
            problems.append("rewards: expected at least one, as in rewards: {issue_free: 1}")
        trained_with = sorted(name for name in self.held_out if self.ensemble.get(name))
        problems += [f"held_out: {name!r} has a weight in ensemble; it cannot be both" for name in trained_with]
        if TRAINING in self.held_out:
            problems.append(f"held_out: {TRAINING!r} is the name of the users of the ensemble; choose another")
        if self.split in (None, self.evaluation.split):
            problems.append(f"evaluation.split: the chatbot is trained on {self.split or 'all users'}; choose another")
        if self.chatbots:
            problems.append(
                "chatbots: these are counterparts of an agent in the user's seat; set the policy under chatbot"
            )
        return problems


def load_chatbot_config(config: str | Path, overrides: Sequence[str] = ()) -> ChatbotRunConfig:
    """Returns the settings of a run that trains a chatbot.

    Args:
        config: a YAML file.
        overrides: ``key.sub=value``, applied last.

    Raises:
        ConfigError: there is no such file or run, or a setting is unknown, wrong or against a rule; all problems.
    """
    return load_env_config(config, overrides, ChatbotRunConfig)
