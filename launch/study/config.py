"""A study's configuration: the adversarial run that it holds, who is met, and how much is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field, replace
from pathlib import Path

from pydantic import PositiveInt

from launch.run.config import Rate, RunConfig, SpeakerConfig
from launch.run.settings import of_a_new_run, read_settings, typed
from rlenv.core.errors import there_are
from rlenv.core.settings import Settings, settings
from rlenv.population.chatbots.scripted import chatbot_names, make_chatbot

UNTUNED = "untuned"
AGGREGATE = "aggregate"


@settings
class TreatmentConfig(Settings):
    """One A/B test: a scripted chatbot of the roster with other failure habits (B.5)."""

    control: str = ""
    """The chatbot that it is a variant of."""
    habits: dict[str, Rate] = field(default_factory=dict)
    """Habits whose rates differ from the control's."""


@settings
class GoalsConfig(Settings):
    """What the study is asked to show; it says of each whether it does."""

    accuracy_before: float = 0.85
    """The discriminator's accuracy over all turns against base is above this ..."""
    accuracy_after: float = 0.60
    """... and against the last iteration at most this."""
    pearson_r: float = 0.9
    """Of issue rates over the chatbots: at least."""
    kl: float = 0.10
    """Of issue categories: at most."""
    diversity: float = 0.8
    """Share of base's distance to real users in each figure of Table 1 that the last iteration closes: at least."""


@settings
class StudyConfig(Settings):
    """Everything of one study."""

    out_dir: str = "runs/study"
    """The study's directory; the adversarial run lies in it."""
    run: RunConfig = RunConfig()
    """Algorithm 1, as ``rlenv adversarial`` takes it; its directory, chatbots and SFT cap are the study's to set."""
    chatbots: list[str] = field(default_factory=list)
    """The scripted chatbots that everybody meets; empty is all."""
    treatments: dict[str, TreatmentConfig] = field(default_factory=dict)
    """Further chatbots by name, which no simulator was trained with."""
    real_sessions_per_chatbot: PositiveInt = 400
    """Sessions of population users with each chatbot and treatment: the truth."""
    simulated_sessions_per_chatbot: PositiveInt = 40
    """Sessions of each simulator with each of them, in contexts of those users."""
    judge_sessions: PositiveInt = 1500
    """Labelled sessions of other users, on which the classifier of user actions is fitted."""
    sft_sizes: list[int] = field(default_factory=lambda: [20, 40, 80, 160, 320])
    """SFT sessions (Table 1's 10K to 160K), ascending; the last is the adversarial run's base."""
    size_sessions_per_chatbot: PositiveInt = 10
    """Sessions of the simulators of the other sizes with each chatbot."""
    goals: GoalsConfig = GoalsConfig()
    """What it is asked to show."""

    def problems(self) -> list[str]:
        """Returns which rules between fields do not hold."""
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
                problems.append(f"treatments.{name}: there is a scripted chatbot of that name; name it otherwise")
            else:
                try:
                    make_chatbot(treatment.control, treatment.habits, name)
                except ValueError as error:
                    problems.append(f"treatments.{name}: {error}")
        if self.sft_sizes != sorted(set(self.sft_sizes)) or not self.sft_sizes or self.sft_sizes[0] < 1:
            problems.append(f"sft_sizes: expected ascending numbers of sessions, got {list(self.sft_sizes)}")
        if self.run.data.path is not None:
            problems.append("run.data.path: a study is held on the reference population, whose truth is known")
        most = self.real_sessions_per_chatbot
        for where in ("simulated_sessions_per_chatbot", "size_sessions_per_chatbot"):
            if getattr(self, where) > most:
                problems.append(
                    f"{where}: expected real_sessions_per_chatbot ({most}) or fewer, got {getattr(self, where)}"
                )
        return problems


def load_study(path: str | Path, overrides: Sequence[str] = ()) -> StudyConfig:
    """Returns a study's configuration.

    Raises:
        ConfigError: no such file, an unknown key (with a suggestion), a wrong type, or a rule broken.
    """
    return typed(StudyConfig, [read_settings(path, overrides)], path, _of_its_run)


def _of_its_run(config: StudyConfig) -> list[str]:
    run = replace(config.run, out_dir=str(Path(config.out_dir) / "adversarial"), chatbots={})
    return [f"run.{problem}" for problem in of_a_new_run(run)]


def roster_of(config: StudyConfig) -> dict[str, SpeakerConfig]:
    """Returns the chatbots of the study, without treatments."""
    return {name: SpeakerConfig(kind="population") for name in config.chatbots or chatbot_names()}


def treatments_of(config: StudyConfig) -> dict[str, SpeakerConfig]:
    """Returns the chatbots that A/B tests compare with their controls."""
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
    """Returns the configuration under which simulators meet every chatbot and treatment, each in a context of its own.

    Nothing is trained between, so the engines stay up.
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
