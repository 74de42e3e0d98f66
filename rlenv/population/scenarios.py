"""Provides the reference population as an env's scenarios and counterparts: contexts, users, scripted chatbots."""

from __future__ import annotations

from functools import cache

from rlenv.core.protocols import Speaker
from rlenv.core.seeds import derive_seed
from rlenv.core.types import Role, Seat
from rlenv.env.providers import EnvParts
from rlenv.env.scenarios import Scenario
from rlenv.population.chatbots.scripted import chatbot_names, make_chatbot
from rlenv.population.corpus import context_of, user_id_of
from rlenv.population.users.user import PopulationUser


@cache
def population_scenarios(num_users: int = 256, seed: int = 0) -> tuple[Scenario, ...]:
    """Returns one scenario for each of ``num_users`` synthetic users, that of the first session.

    The chatbot opens about half of them. Every fifth user is in the split "evaluation", the others in "train".
    """
    scenarios = []
    for index in range(num_users):
        context_id, context = context_of(index, 0, seed)
        opener: Role = "assistant" if derive_seed(seed, "opener", index) % 2 else "user"
        split = "evaluation" if index % 5 == 4 else "train"
        scenarios.append(
            Scenario(
                context_id=context_id, user_id=user_id_of(index, seed), context=context, opener=opener, split=split
            )
        )
    return tuple(scenarios)


def population_counterparts(seat: Seat) -> dict[str, Speaker]:
    """Returns the counterparts of an agent in ``seat``: a synthetic user, or the scripted chatbots."""
    if seat == "chatbot":
        return {"population": PopulationUser()}
    return {name: make_chatbot(name) for name in chatbot_names()}


def population_parts(seat: Seat) -> EnvParts:
    """Returns the parts of an env on the reference population; this is the provider of the source "population"."""
    return EnvParts(population_scenarios(), population_counterparts(seat))
