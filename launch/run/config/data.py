"""Settings of a run's real sessions: where they come from, and how users are divided into splits."""

from __future__ import annotations

from dataclasses import field
from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from rlenv.core.errors import there_are
from rlenv.core.settings import Name, Rate, Settings, settings
from rlenv.population.chatbots.faults import FAULT_HABITS
from rlenv.population.chatbots.scripted import chatbot_names
from rlenv.population.users.traits import factor_problems, trait_problems


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
