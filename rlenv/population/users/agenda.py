"""The agenda of a session: the facts that a user intends to disclose, in order (Schatzmann et al., 2006).

It is a function of the traits and the session's index, so the hidden state has only the facts already disclosed.
"""

from __future__ import annotations

from functools import lru_cache
from random import Random

from rlenv.core.seeds import derive_seed
from rlenv.population.users.mind import Mind
from rlenv.population.users.traits import traits_of
from rlenv.population.wording import Fact, shared_facts, update_facts

_RANK = dict(open=0, event=1, person=2.2, feel=2.2, vague=3, effect=3, small=4, tried=4, thought=5, history=6, worry=6,
             good=7, wish=7)  # fmt: skip
DEEP = frozenset({"thought", "history", "worry", "wish"})
"""Kinds of facts that users disclose only with some trust."""
ACTIONS = {
    "open": "describes_situation",
    "event": "describes_situation",
    "small": "describes_situation",
    "person": "talks_about_relationships",
    "feel": "negative_affect",
    "effect": "describes_impact",
    "tried": "describes_coping_attempts",
    "thought": "negative_self_view",
    "history": "shares_history",
    "worry": "worries_about_future",
    "wish": "expresses_need",
    "good": "positive_affect",
    "vague": "general_distress",
}
"""Kind of fact to the user action (Appendix D) of disclosing it."""
_EXCLUDED = {
    "job_loss": {"job", "no focus", "coworker", "should be grateful"},
    "exam_pressure": {"job", "coworker", "should be grateful"},
    "caring_relative": {"job", "coworker", "should be grateful", "family view", "overwhelmed"},
    "grief": {"family view"},
    "insomnia": {"sleep", "late"},
    "new_parent": {"sleep", "no focus", "job", "coworker", "should be grateful"},
    "chronic_pain": {"body", "exercise"},
    "health_worry": {"body"},
    "loneliness": {"friend"},
    "low_mood": {"hobby dropped"},
    "conflict_with_parents": {"family view"},
}
_PER_SESSION = 14
_NUM_SHARED = 17
"""Number of the shared facts that are true for each user."""


@lru_cache(maxsize=8192)
def agenda_of(user: int, session: int, seed: int) -> tuple[Fact, ...]:
    """Returns all facts that the user can disclose in this session, most pressing first."""
    traits = traits_of(user, seed)
    rng = Random(derive_seed("population-agenda", seed, user, session))
    out = _EXCLUDED.get(traits.concern, set())
    common = [f for f in shared_facts() if f.label not in out]
    common = Random(derive_seed("population-common", seed, user)).sample(common, _NUM_SHARED)
    own = [(f, 0.0) for f in traits.about.facts] + [(f, 1.5) for f in common]
    ordered = sorted(own, key=lambda pair: _RANK[pair[0].kind] + pair[1] + rng.gauss(0, 1.3 * (pair[0].kind != "open")))
    facts = [fact for fact, _ in ordered]
    if session > 0:
        disclosed = {f.fact_id for k in range(session) for f in agenda_of(user, k, seed)[:_PER_SESSION]}
        facts = [*_updates(user, session, seed), *[f for f in facts if f.fact_id not in disclosed and f.kind != "open"]]
    return tuple(facts)


def _updates(user: int, session: int, seed: int) -> list[Fact]:
    opening, *others = update_facts()
    Random(derive_seed("population-updates", seed, user)).shuffle(others)
    turn = 2 * (session - 1) % len(others)
    return [opening, *(others[turn:] + others[:turn])[:2]]


def fact_by_id(mind: Mind, fact_id: str) -> Fact:
    """Returns the fact ``fact_id`` of the user's agenda."""
    return next(f for f in agenda_of(mind.user, mind.session, mind.seed) if f.fact_id == fact_id)


def untold(mind: Mind) -> list[Fact]:
    """Returns the facts that the user can still disclose at the present level of trust."""
    deep_ok = mind.trust > 0.55 - 0.3 * mind.traits.openness
    return [
        f
        for f in agenda_of(mind.user, mind.session, mind.seed)
        if f.fact_id not in mind.told and (deep_ok or f.kind not in DEEP)
    ]


def next_fact(mind: Mind, asked: str | None, planned: list[str], rng: Random) -> Fact | None:
    """Returns the next fact to disclose: usually one that answers the question, else one near the top of the agenda."""
    left = [f for f in untold(mind) if f.fact_id not in planned]
    if not left:
        return None
    if not mind.told and not planned:
        return next((f for f in left if f.kind == "open"), left[0])
    answers = [f for f in left if f.kind == asked]
    if answers and rng.random() < 0.85:
        return answers[0]
    return left[0] if rng.random() < 0.7 else left[min(len(left) - 1, rng.randrange(3))]
