"""Plans of rounds and of evaluation episodes: what is compared with what, and that a repeated round is the same."""

from __future__ import annotations

from collections import Counter
from itertools import chain

import pytest

from rlenv.core.errors import ConfigError
from rlenv.env.ensemble import Ensemble
from rlenv.learning.group_plan import plan_evaluation, plan_groups
from rlenv.population.users.user import PopulationUser

CONTEXTS = [f"c{i}" for i in range(10)]
USERS = Ensemble(
    {"base": PopulationUser(), "it1": PopulationUser(), "it2": PopulationUser()}, dict(base=1, it1=1, it2=2)
)


def test_a_group_is_one_context_and_user_under_different_seeds() -> None:
    groups = plan_groups(CONTEXTS, USERS, 3, 4, 5, seed=7)
    assert [len(group) for group in groups] == [5] * 4
    for group in groups:
        assert len({(e.context_id, e.counterpart) for e in group}) == 1 and len({e.seed for e in group}) == 5
    assert len({e.episode_id for e in chain(*groups)}) == len({e.seed for e in chain(*groups)}) == 20
    assert groups == plan_groups(CONTEXTS[::-1], USERS, 3, 4, 5, seed=7)
    assert groups != plan_groups(CONTEXTS, USERS, 3, 4, 5, seed=8)


def test_no_context_comes_again_before_the_others_of_its_pass_and_passes_differ_in_order() -> None:
    rounds = [[g[0].context_id for g in plan_groups(CONTEXTS, USERS, n, 4, 2, seed=0)] for n in range(40)]
    for one, two in zip(rounds[::2], rounds[1::2], strict=True):
        assert len({*one, *two}) == 8
    assert set(Counter(chain(*rounds))) == set(CONTEXTS)
    assert rounds[0] != rounds[2]


def test_users_are_drawn_in_proportion_to_their_weights() -> None:
    drawn = Counter(g[0].counterpart for n in range(200) for g in plan_groups(CONTEXTS, USERS, n, 5, 2, seed=0))
    assert drawn["it2"] / 1000 == pytest.approx(0.5, abs=0.05) and drawn["base"] / 1000 == pytest.approx(0.25, abs=0.05)


def test_a_round_larger_than_the_contexts_is_refused() -> None:
    with pytest.raises(ConfigError, match="11 groups with one context each, but there are only 10 contexts"):
        plan_groups(CONTEXTS, USERS, 0, 11, 2, seed=0)


def test_evaluation_uses_the_same_seeds_with_any_users() -> None:
    one, two = (plan_evaluation(CONTEXTS, Ensemble({n: PopulationUser()}), 3, seed=1) for n in ("it3", "true"))
    assert len(one) == 30 == len({e.seed for e in one})
    assert [(e.context_id, e.seed) for e in one] == [(e.context_id, e.seed) for e in two]
    assert {e.counterpart for e in two} == {"true"}
