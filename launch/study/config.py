"""A study's configuration: its adversarial run, its chatbots, the sizes of its samples and its goals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field, replace
from pathlib import Path

from pydantic import PositiveInt

from launch.run.config.run import RunConfig
from launch.run.config.speaker import SpeakerConfig
from launch.run.settings import new_run_problems, read_settings, typed
from rlenv.core.errors import there_are
from rlenv.core.settings import Name, Rate, Settings, settings
from rlenv.population.chatbots.scripted import chatbot_names, make_chatbot

UNTUNED = "untuned"
AGGREGATE = "aggregate"


@settings
class TreatmentConfig(Settings):
    """The treatment of an A/B test: a scripted chatbot with other failure habits (B.5)."""

    control: str = ""
    """The chatbot of which the treatment is a variant."""
    habits: dict[str, Rate] = field(default_factory=dict)
    """Failure habits whose rates differ from the control's."""


@settings
class GoalsConfig(Settings):
    """The goals of the study; the report has the verdict on each."""

    accuracy_before: float = 0.85
    """Lowest accuracy of the discriminator against the base simulator, over all turns."""
    accuracy_after: float = 0.60
    """Highest accuracy of the discriminator against the last iteration, over all turns."""
    pearson_r: float = 0.9
    """Lowest Pearson correlation between simulated and real issue rates over the chatbots."""
    kl: float = 0.10
    """Highest KL divergence of issue categories."""
    diversity: float = 0.8
    """Lowest share of the base simulator's distance to real users, in each figure of Table 1, that the last iteration
    closes."""


@settings
class StudyConfig(Settings):
    """The settings of one study."""

    out_dir: Name = "runs/study"
    """The study's directory; it contains the adversarial run."""
    run: RunConfig = RunConfig()
    """The adversarial run, as for ``rlenv adversarial``; the study sets its directory, chatbots and SFT cap."""
    chatbots: list[str] = field(default_factory=list)
    """The scripted chatbots that real and simulated users talk to; an empty list is all."""
    treatments: dict[str, TreatmentConfig] = field(default_factory=dict)
    """Treatments of the A/B tests by name; no simulator is trained with them."""
    real_sessions_per_chatbot: PositiveInt = 400
    """Real sessions with each chatbot and treatment."""
    simulated_sessions_per_chatbot: PositiveInt = 40
    """Sessions of each simulator with each chatbot and treatment, in contexts of the real sessions."""
    judge_sessions: PositiveInt = 1500
    """Labelled sessions of other users, on which the classifier of user actions is trained."""
    sft_sizes: list[int] = field(default_factory=lambda: [20, 40, 80, 160, 320])
    """Numbers of SFT sessions (10K to 160K in Table 1), ascending; the last is that of the adversarial run."""
    size_sessions_per_chatbot: PositiveInt = 10
    """Sessions with each chatbot of each simulator of a smaller SFT size."""
    goals: GoalsConfig = GoalsConfig()
    """The study's goals."""

    def problems(self) -> list[str]:
        """Returns the broken rules between fields."""
        problems = []
        known = self.chatbots or chatbot_names()
        if unknown := [name for name in known if name not in chatbot_names()]:
            problems.append(f"chatbots: no scripted chatbot {unknown[0]!r}; {there_are(chatbot_names(), unknown[0])}")
        for name, treatment in self.treatments.items():
            if treatment.control not in known:
                problems.append(
                    f"treatments.{name}.control: {treatment.control!r}; {there_are(known, treatment.control)}"
                )
            elif name in chatbot_names():
                problems.append(f"treatments.{name}: a scripted chatbot has that name; choose another")
            else:
                try:
                    make_chatbot(treatment.control, treatment.habits, name)
                except ValueError as error:
                    problems.append(f"treatments.{name}: {error}")
        if self.sft_sizes != sorted(set(self.sft_sizes)) or not self.sft_sizes or self.sft_sizes[0] < 1:
            problems.append(f"sft_sizes: expected ascending numbers of sessions, got {list(self.sft_sizes)}")
        if self.run.data.path is not None:
            problems.append(
                "run.data.path: a study uses the reference population, whose true labels are known; remove this setting"
            )
        num_real = self.real_sessions_per_chatbot
        for where in ("simulated_sessions_per_chatbot", "size_sessions_per_chatbot"):
            if getattr(self, where) > num_real:
                problems.append(
                    f"{where}: expected real_sessions_per_chatbot ({num_real}) or fewer, got {getattr(self, where)}"
                )
        return problems


def load_study(path: str | Path, overrides: Sequence[str] = ()) -> StudyConfig:
    """Returns a study's configuration.

    Raises:
        ConfigError: there is no such file, or a setting is unknown, wrong or against a rule; all problems.
    """
    return typed(StudyConfig, [read_settings(path, overrides)], path, _of_its_run)


def _of_its_run(config: StudyConfig) -> list[str]:
    run = replace(config.run, out_dir=str(Path(config.out_dir) / "adversarial"), chatbots={})
    return [f"run.{problem}" for problem in new_run_problems(run)]


def roster_of(config: StudyConfig) -> dict[str, SpeakerConfig]:
    """Returns the study's chatbots, without treatments."""
    return {name: SpeakerConfig(kind="population") for name in config.chatbots or chatbot_names()}


def treatments_of(config: StudyConfig) -> dict[str, SpeakerConfig]:
    """Returns the treatments of the A/B tests."""
    return {
        name: SpeakerConfig(kind="population", name=treatment.control, habits=treatment.habits)
        for name, treatment in config.treatments.items()
    }


def adversarial_config(config: StudyConfig) -> RunConfig:
    """Returns the configuration of the study's adversarial run."""
    run, roster = config.run, roster_of(config)
    population = replace(run.data.population, chatbots=list(roster))
    data = replace(run.data, population=population, max_sft_sessions=config.sft_sizes[-1])
    where = str(Path(config.out_dir) / "adversarial")
    return replace(run, out_dir=where, chatbots=roster, data=data)


def evaluation_run_config(config: StudyConfig) -> RunConfig:
    """Returns the configuration for simulating sessions with every chatbot and treatment, one per context.

    No training phase interrupts these simulations, so the engines stay up.
    """
    run = adversarial_config(config)
    collect = replace(run.collect, assignment="as_real", simulations_per_context=1)
    untuned = SpeakerConfig(kind="engine", sampling=run.simulator.sampling)
    return replace(
        run,
        chatbots={**run.chatbots, **treatments_of(config)},
        collect=collect,
        zero_shot={**run.zero_shot, UNTUNED: untuned},
        keep_engines=True,
    )
