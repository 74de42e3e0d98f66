"""Plans the episodes of a round of reinforcement learning, and those that evaluate a chatbot before and after.

A *group* is one context with its persona and one user, under several seeds. A plan depends only on the seed and the
round's number, so a repeated round has the same episodes. Independent of who plays them.
"""

from __future__ import annotations

from collections.abc import Sequence

from rlenv.core.errors import ConfigError
from rlenv.core.seeds import derive_seed
from rlenv.env.collect import Episode
from rlenv.env.ensemble import Ensemble


def plan_groups(
    context_ids: Sequence[str], counterparts: Ensemble, number: int, num_groups: int, group_size: int, seed: int
) -> list[list[Episode]]:
    """Returns the episodes of a round, by group.

    Contexts are used in passes, each pass in a new order; a context is not repeated within a pass. The user of a group
    is drawn from the ensemble.

    Args:
        context_ids: the contexts to choose from; a round has no context twice.
        counterparts: the users to draw from.
        number: the round's number, from 0.
        num_groups: groups per round.
        group_size: conversations per group.
        seed: the run's seed.

    Raises:
        ConfigError: fewer contexts than groups.
    """
    if len(context_ids) < num_groups:
        raise ConfigError(
            f"a round has {num_groups} groups with one context each, but there are only {len(context_ids)} contexts; "
            "lower num_groups or give more contexts"
        )
    groups = []
    for context_id in _of_round(context_ids, number, num_groups, seed):
        user = counterparts.draw(derive_seed(seed, "group", number, context_id))
        groups.append(
            [
                Episode(
                    episode_id=f"{number}:{context_id}#{place}",
                    context_id=context_id,
                    counterpart=user,
                    seed=derive_seed(seed, "conversation", number, context_id, place),
                )
                for place in range(group_size)
            ]
        )
    return groups


def plan_evaluation(
    context_ids: Sequence[str], users: Ensemble, conversations_per_context: int, seed: int
) -> list[Episode]:
    """Returns the episodes that evaluate a chatbot with a set of users: the same ones for every version of it.

    Args:
        context_ids: the contexts; each is used ``conversations_per_context`` times.
        users: one is drawn for each conversation.
        conversations_per_context: conversations per context, each with its own seed.
        seed: the run's seed.
    """
    episodes = []
    for context_id in context_ids:
        for place in range(conversations_per_context):
            own = derive_seed(seed, "measure", context_id, place)
            episode_id = f"{context_id}#{place}"
            episodes.append(
                Episode(episode_id=episode_id, context_id=context_id, counterpart=users.draw(own), seed=own)
            )
    return episodes


def _of_round(context_ids: Sequence[str], number: int, num_groups: int, seed: int) -> list[str]:
    """Returns the contexts of round ``number``; contexts at the end of a pass that do not fill a round are skipped."""
    rounds_a_pass = len(context_ids) // num_groups
    which, place = divmod(number, rounds_a_pass)
    order = sorted(context_ids, key=lambda context_id: derive_seed(seed, "pass", which, context_id))
    return order[place * num_groups : (place + 1) * num_groups]
