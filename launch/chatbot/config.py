"""The settings of a chatbot's reinforcement learning: ``rlenv train-chatbot conf/chatbot_rl.yaml``.

An environment made from an adversarial run (``launch.serving.config``), and in its chatbot's seat a model that learns.
What a phase runs on (engines, train, ray), the limits of a conversation and the tracking are the run's, and under
``settings`` any of them can be said anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field
from pathlib import Path
from typing import Literal

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from launch.run.config import Rate, SpeakerConfig, adapter_problems
from launch.run.contents import SPLITS
from launch.serving.config import EnvConfig, load_env_config
from launch.serving.judges import JudgeConfig
from rlenv.core.errors import ConfigError, there_are
from rlenv.core.settings import Settings, settings
from rlenv.core.types import Sampling
from rlenv.learning.simulator_faults import FaultConfig
from trainers.chatbot_rl.config import ChatbotRlConfig

CHATBOT = "chatbot"
TRAINING = "training"


@settings
class ChatbotEvaluationConfig(Settings):
    """How the chatbot is measured: before, after, and on the way. No user of it is trained with."""

    split: str = "evaluation"
    """Users that contexts are taken from."""
    num_contexts: PositiveInt | None = None
    """At most so many; None is all."""
    conversations_per_context: PositiveInt = 2
    """Under a seed each, the same ones before and after."""
    labels: Literal["oracle", "detectors"] = "oracle"
    """Who says what is wrong with the chatbot's messages: the reference population's oracle (true for its own users,
    inferred with all others), or the detectors."""
    held_out_judge: JudgeConfig | None = None
    """Who labels the conversations before and after once more, and has no part in any reward."""
    every: NonNegativeInt = 0
    """Rounds between measurements on the way, with the held-out users; 0 is never."""
    every_contexts: PositiveInt = 16
    """Contexts of such a measurement, one conversation each."""

    def problems(self) -> list[str]:
        """Returns whether the users are a split's."""
        return [] if self.split in SPLITS else [f"split: no split {self.split!r}; {there_are(SPLITS, self.split)}"]


@settings
class RefreshConfig(Settings):
    """Algorithm 1 re-run against the new chatbot, from the newest simulator on."""

    num_iterations: PositiveInt = 1
    """Of Algorithm 1; the last one's simulator joins the ensemble."""
    weight: PositiveFloat = 1.0
    """Its weight there."""


@settings
class ChatbotRunConfig(EnvConfig):
    """Everything of one run that trains a chatbot."""

    name: str = "chatbot-rl"
    """The run's name in tracking."""
    out_dir: str = "runs/chatbot_rl"
    """This run's directory."""
    seed: int = 0
    """Everything random of this run follows from it; ``settings.seed`` is the adversarial run's."""
    chatbot: SpeakerConfig = SpeakerConfig(engine=CHATBOT, adapter="trained", sampling=Sampling(max_tokens=100))
    """Who learns. The base model is its engine's: a folder or hub name, "auto" (the simulator's), "smollm2", or
    "small-llama", which is trained here for the chatbot's seat. The adapter to start from is a folder, or "trained":
    fine-tuned on the assistant turns of the run's SFT users."""
    held_out: list[str] = field(default_factory=list)
    """Simulator versions and ``users`` that the chatbot is measured with and never trained with."""
    rl: ChatbotRlConfig = ChatbotRlConfig()
    """Rounds, credit and loss."""
    faults: FaultConfig = FaultConfig(quantile=0.0)
    """Chatbot messages that a faulty simulator answered count less. A quantile above 0 has every conversation of a
    round scored by the discriminator of ``discriminator``."""
    alternate_every: NonNegativeInt = 0
    """Rounds between refreshes of the simulator; 0 is never."""
    refresh: RefreshConfig = RefreshConfig()
    """What a refresh is."""
    evaluation: ChatbotEvaluationConfig = ChatbotEvaluationConfig()
    """How the chatbot is measured."""
    max_failed_share: Rate = 0.1
    """A round or a measurement with more failed conversations than this stops the run."""

    def problems(self) -> list[str]:
        """Returns which rules between fields do not hold."""
        problems = super().problems()
        seat, sampling = self.chatbot, self.chatbot.sampling
        if seat.kind != "engine" or not seat.adapter:
            problems.append("chatbot: expected kind engine with an adapter to start from: a folder, or trained")
        elif seat.engine not in self.settings.engines:
            known = there_are(self.settings.engines, seat.engine)
            problems.append(f"chatbot.engine: no engine {seat.engine!r} in settings.engines; {known}")
        else:
            engine, where = self.settings.engines[seat.engine], f"settings.engines.{seat.engine}"
            trained = seat.adapter == "trained"
            problems += adapter_problems(where, engine, "settings.chatbot_sft", self.settings.chatbot_sft, trained)
        try:
            self.rl.updates_per_round(self.settings.train.num_workers)
        except ConfigError as error:
            problems.append(str(error))
        if (sampling.top_p, sampling.top_k) != (1.0, 0):
            problems.append("chatbot.sampling: expected top_p 1 and top_k 0; the learner knows the whole distribution")
        if sampling.temperature != self.rl.temperature:
            problems.append(
                f"chatbot.sampling.temperature: expected the learner's, rl.temperature = {self.rl.temperature}, got "
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
            problems.append("chatbots: that is for the user's seat; who learns is said under chatbot")
        return problems


def load_chatbot_config(config: str | Path, overrides: Sequence[str] = ()) -> ChatbotRunConfig:
    """Returns the settings of a run that trains a chatbot.

    Args:
        config: a YAML file.
        overrides: ``key.sub=value``, applied last.

    Raises:
        ConfigError: no such file or run, an unknown key (with a suggestion), a wrong type, or a rule broken.
    """
    return load_env_config(config, overrides, ChatbotRunConfig)
