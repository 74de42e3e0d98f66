"""The texts of a session's context (Appendix A), true to the hidden traits and short enough for a small model."""

from __future__ import annotations

from rlenv.population.agenda import agenda_of, fact_by_id
from rlenv.population.mind import Mind
from rlenv.population.traits import Traits, traits_of

_MANNERS = {
    "formal": "carefully and in full sentences",
    "plain": "plainly",
    "casual": "casually",
    "texting": "like in a text message",
    "rambling": "at length",
}


def profile(traits: Traits) -> str:
    """Returns who the user is: demographics, concern and goal, as told when they signed up."""
    return f"{traits.name}, {traits.age}, {traits.job}. Concern: {traits.about.name}. Goal: {traits.goal}."


def long_term_context(traits: Traits, session: int) -> str:
    """Returns what holds across sessions: the theme, the people, the pet, the way of writing."""
    slots = traits.slots
    gist = traits.about.gist.format(role=slots["role"], who=f"the {slots['role']}")
    visits = "First session." if session == 0 else f"Sessions before: {session}."
    return (
        f"{visits} Theme: {gist}. People: {slots['role']} {slots['who_name']}, friend {slots['friend']}."
        f" Pet: {slots['pet']} {slots['petname']}. Writes {_MANNERS[traits.style]}, {_length(traits)}."
    )


def current_summary(user: int, session: int, seed: int) -> str:
    """Returns what this session is about: the first things on the agenda and the mood the user comes with."""
    traits = traits_of(user, seed)
    labels = [f.label for f in agenda_of(user, session, seed)[:4]]
    manner = (
        "opens up easily"
        if traits.openness > 0.6
        else "opens up slowly"
        if traits.openness < 0.4
        else "is open to talk"
    )
    doubt = "doubts suggestions" if traits.resistance > 0.5 else "takes suggestions"
    return f"{traits.name} talks about {', '.join(labels[:-1])} and {labels[-1]}; {manner} and {doubt}."


def session_summary(mind: Mind) -> str:
    """Returns the summary of a session that ended with this hidden state."""
    labels = [fact_by_id(mind, fact_id).label for fact_id in mind.told[:4]]
    told = f"Talked about {', '.join(labels)}." if labels else "Said little."
    if mind.trust < 0.2 or mind.patience < 0.15:
        return f"{told} Left annoyed."
    return f"{told} Left {'calmer' if mind.eased > 0.6 else 'much as before'}."


def _length(traits: Traits) -> str:
    return "briefly" if traits.words < 14 else "long messages" if traits.words > 30 else "a few sentences"
