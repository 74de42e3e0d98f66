"""Generates the embedded corpus: labelled sessions of population users with scripted chatbots, equal for equal seeds.

User i does not depend on the size of the corpus. Contexts follow Appendix A and are short, because small models read
them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from random import Random

from rlenv.core import aio
from rlenv.core.seeds import derive_seed
from rlenv.core.types import ConversationState, Message, Role, Session, SessionContext
from rlenv.env.conversation import Limits, begin, converse, to_session
from rlenv.population.chatbots.scripted import ScriptedChatbot, chatbot_names, make_chatbot
from rlenv.population.oracle import issues_of
from rlenv.population.users.agenda import agenda_of, fact_by_id
from rlenv.population.users.mind import Mind
from rlenv.population.users.traits import Traits, Wanted, has_traits, scaled, traits_of
from rlenv.population.users.user import PopulationUser

_MANNERS = {
    "formal": "carefully and in full sentences",
    "plain": "plainly",
    "casual": "casually",
    "texting": "like in a text message",
    "rambling": "at length",
}

SOURCE = "population"
_RECENT_MESSAGES = 4


def user_id_of(user_index: int, seed: int) -> str:
    """Returns the id under which a user's sessions are stored."""
    return f"pop-{seed}-{user_index}"


def context_of(
    user_index: int,
    session_index: int,
    seed: int,
    chatbots: Sequence[str] | None = None,
    limits: Limits | None = None,
) -> tuple[str, SessionContext]:
    """Returns the id and the context of one session, consistent with the user's hidden traits and earlier sessions.

    Args:
        user_index: index of the user in the population.
        session_index: index of the session, from 0; earlier sessions are simulated so that they can be summarised.
        seed: seed of the population.
        chatbots: names of the scripted chatbots that the user may talk to; None means all.
        limits: caps of the earlier sessions.
    """
    names = tuple(chatbots) if chatbots is not None else chatbot_names()
    return f"{user_id_of(user_index, seed)}-{session_index}", _context(
        user_index, session_index, seed, names, limits or Limits()
    )


def generate_sessions(
    num_users: int,
    sessions_per_user: int,
    seed: int,
    chatbots: Sequence[str] | None = None,
    limits: Limits | None = None,
) -> list[Session]:
    """Returns the sessions of the first ``num_users`` users, user by user, with true actions and issues.

    Args:
        num_users: number of users; they are users 0 to ``num_users`` - 1.
        sessions_per_user: number of consecutive sessions of each user.
        seed: seed of the population.
        chatbots: names of the scripted chatbots that users may talk to; None means all.
        limits: caps of each session.
    """
    names = tuple(chatbots) if chatbots is not None else chatbot_names()
    caps = limits or Limits()
    return [
        _session(user, session, seed, names, caps) for user in range(num_users) for session in range(sessions_per_user)
    ]


def first_session(user_index: int, seed: int, chatbot: ScriptedChatbot, limits: Limits | None = None) -> Session:
    """Returns a user's first session, with the given chatbot and with true actions and issues."""
    context = _context(user_index, 0, seed, (), limits or Limits())
    state = _simulated(user_index, 0, seed, context, chatbot, limits or Limits())
    return labelled(state, chatbot.name, user_id_of(user_index, seed))


def first_sessions(
    num_users: int,
    seed: int,
    chatbots: Sequence[ScriptedChatbot],
    limits: Limits | None = None,
    wanted: Wanted | None = None,
    skip: int = 0,
    factors: Mapping[str, float] | None = None,
) -> Iterator[Session]:
    """Yields the first sessions of ``num_users`` users with the traits ``wanted``, after the first ``skip`` such users.

    The chatbots take turns. Traits in numbers are multiplied by ``factors``. Fewer sessions are yielded if not one user
    in a hundred has the traits.
    """
    users = (user for user in range(100 * (skip + num_users)) if has_traits(traits_of(user, seed), wanted or {}))
    for index, user in enumerate(islice(users, skip, skip + num_users)):
        with scaled(factors or {}):
            session = first_session(user, seed, chatbots[index % len(chatbots)], limits)
        yield session


def labelled(state: ConversationState, chatbot: str, user_id: str) -> Session:
    """Returns a finished conversation as a session whose chatbot messages are labelled with their issues."""
    session = to_session(state, session_id=state.context_id, source=SOURCE, chatbot=chatbot, user_id=user_id)
    issues = iter(issues_of(state))
    messages = tuple(
        m.model_copy(update={"issues": next(issues)}) if m.role == "assistant" else m for m in session.messages
    )
    return session.model_copy(update={"messages": messages})


@lru_cache(maxsize=1024)
def _conversation(user: int, session: int, seed: int, names: tuple[str, ...], limits: Limits) -> ConversationState:
    context = _context(user, session, seed, names, limits)
    return _simulated(user, session, seed, context, make_chatbot(_chatbot_of(user, session, seed, names)), limits)


def _session(user: int, session: int, seed: int, names: tuple[str, ...], limits: Limits) -> Session:
    chatbot = _chatbot_of(user, session, seed, names)
    return labelled(_conversation(user, session, seed, names, limits), chatbot, user_id_of(user, seed))


def _chatbot_of(user: int, session: int, seed: int, names: tuple[str, ...]) -> str:
    rng = Random(derive_seed("population-session", seed, user, session))
    rng.random()  # the draw of the opener in _simulated
    return names[rng.randrange(len(names))]


def _simulated(
    user: int, session: int, seed: int, context: SessionContext, chatbot: ScriptedChatbot, limits: Limits
) -> ConversationState:
    rng = Random(derive_seed("population-session", seed, user, session))
    opener: Role = "user" if rng.random() < 0.6 else "assistant"
    state = begin(
        f"{user_id_of(user, seed)}-{session}",
        context,
        opener=opener,
        seed=derive_seed("population", seed, user, session),
    )
    return aio.run(converse(state, PopulationUser(), chatbot, limits))


def _context(user: int, session: int, seed: int, names: tuple[str, ...], limits: Limits) -> SessionContext:
    traits = traits_of(user, seed)
    past = [_conversation(user, earlier, seed, names, limits) for earlier in range(session)]
    minds = [Mind.model_validate(state.user_memory) for state in past]
    recent: tuple[tuple[Message, ...], ...] = ()
    if past:
        last = past[-1].turns[-_RECENT_MESSAGES:]
        recent = (tuple(Message(role=t.role, content=t.utterance.text) for t in last),)
    return SessionContext.model_validate(
        dict(
            profile=profile(traits),
            situation=f"{traits.name} struggles with {traits.about.name}.",
            long_term_context=long_term_context(traits, session),
            previous_summaries=tuple(session_summary(mind) for mind in minds[-5:]),
            current_summary=current_summary(user, session, seed),
            recent_sessions=recent,
            population={"user": user, "session": session, "seed": seed},
        )
    )


def profile(traits: Traits) -> str:
    """Returns the user's profile: demographics, concern and goal, as given at sign-up."""
    return f"{traits.name}, {traits.age}, {traits.job}. Concern: {traits.about.name}. Goal: {traits.goal}."


def long_term_context(traits: Traits, session: int) -> str:
    """Returns what is constant across sessions: the theme, people, pet, and style of writing."""
    slots = traits.slots
    gist = traits.about.gist.format(role=slots["role"], who=f"the {slots['role']}")
    visits = "First session." if session == 0 else f"Sessions before: {session}."
    return (
        f"{visits} Theme: {gist}. People: {slots['role']} {slots['who_name']}, friend {slots['friend']}."
        f" Pet: {slots['pet']} {slots['petname']}. Writes {_MANNERS[traits.style]}, {_length(traits)}."
    )


def current_summary(user: int, session: int, seed: int) -> str:
    """Returns a summary of the coming session: the first items of the agenda, and the user's attitude."""
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
    topics = f"Talked about {', '.join(labels)}." if labels else "Said little."
    if mind.trust < 0.2 or mind.patience < 0.15:
        return f"{topics} Left annoyed."
    return f"{topics} Left {'calmer' if mind.eased > 0.6 else 'much as before'}."


def _length(traits: Traits) -> str:
    return "briefly" if traits.words < 14 else "long messages" if traits.words > 30 else "a few sentences"
