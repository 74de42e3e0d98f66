"""The population's users: fixed traits, replies as functions of state and seed, and reactions to the chatbot."""

import asyncio
import json
import re
from statistics import mean

import pytest

from rlenv.core.types import ConversationState, SessionContext, Turn, Utterance
from rlenv.data.linguistics import words
from rlenv.env.conversation import Limits, begin, converse
from rlenv.population.chatbots.scripted import make_chatbot
from rlenv.population.corpus import first_sessions
from rlenv.population.users.agenda import agenda_of
from rlenv.population.users.mind import Mind
from rlenv.population.users.traits import factor_problems, has_traits, scaled, trait_problems, traits_of
from rlenv.population.users.user import PopulationUser
from rlenv.population.wording import concerns, first_names, shared_facts, update_facts

USER = PopulationUser()
GOOD = (
    "That sounds really hard. What happened?",
    "It sounds like that hurts you. How did that make you feel?",
    "I'm sorry you're going through this. When did this start?",
    "It makes sense that you feel this way. What have you tried so far?",
    "That must be exhausting. Who knows about this?",
    "It sounds like you carry a lot. What goes through your mind in those moments?",
    "Thank you for telling me. What do you need most right now?",
)
DISMISSIVE = "You're overreacting, it's not a big deal. Just cheer up."
STRANGE = ["", " ", "😀😀", "مرحبا كيف حالك", "\ud800", "x" * 100_000, "why? " * 20_000, "[a|b] {who} |", "\x00"]


class Says:
    """A chatbot that sends the given lines in order, and then repeats the last one."""

    name = "says"

    def __init__(self, *lines: str) -> None:
        self.lines = lines

    async def reply(self, state: ConversationState, seed: int) -> Utterance:
        num_sent = sum(t.role == "assistant" for t in state.turns)
        return Utterance(text=self.lines[min(num_sent, len(self.lines) - 1)])


def _start(user: int, seed: int = 0, opener: str = "user") -> ConversationState:
    context = SessionContext.model_validate({"population": {"user": user, "session": 0, "seed": seed}})
    return begin(f"c{user}", context, opener=opener, seed=user)


def _talk(user: int, *lines: str, turns: int = 25, opener: str = "user") -> ConversationState:
    return asyncio.run(converse(_start(user, opener=opener), USER, Says(*lines), Limits(max_turns=turns)))


def _texts(state: ConversationState) -> list[str]:
    return [t.utterance.text for t in state.turns if t.role == "user"]


def _memories(state: ConversationState) -> list[Mind]:
    return [Mind.model_validate(t.utterance.memory) for t in state.turns if t.role == "user"]


def _after(state: ConversationState, line: str, seed: int = 3) -> Utterance:
    """Returns the user's reply to ``line``, sent after a conversation whose last message is the user's."""
    turns = (*state.turns, Turn(role="assistant", utterance=Utterance(text=line)))
    return asyncio.run(USER.reply(state.model_copy(update={"turns": turns, "end": None}), seed))


def test_a_reply_is_a_function_of_state_and_seed():
    state = _talk(4, *GOOD, turns=3)
    assert _after(state, GOOD[3]) == _after(state, GOOD[3])
    before = state.model_dump_json()
    _after(state, GOOD[3], seed=9)
    assert state.model_dump_json() == before


def test_a_snapshot_saved_as_json_continues_identically():
    state = _talk(7, *GOOD, turns=4)
    restored = ConversationState.model_validate_json(state.model_dump_json())
    assert _after(restored, GOOD[4]) == _after(state, GOOD[4])
    json.dumps(state.user_memory)


def test_different_seeds_give_different_continuations():
    state = _talk(7, *GOOD, turns=4)
    assert len({_after(state, GOOD[4], seed=s).text for s in range(8)}) > 4


def test_a_context_without_a_population_field_gets_a_user_drawn_by_the_seed():
    state = begin("c", SessionContext(profile="Somebody."), seed=11)
    first = asyncio.run(USER.reply(state, 1))
    assert first.text and first.memory is not None
    assert first == asyncio.run(USER.reply(state, 1))


@pytest.mark.parametrize("opener", ["user", "assistant"])
def test_either_side_can_open(opener):
    state = _talk(3, "Hi, what brings you here?", *GOOD, turns=4, opener=opener)
    assert state.turns[0].role == opener and len(_texts(state)) >= 1


@pytest.mark.parametrize("text", STRANGE)
def test_any_chatbot_message_gets_a_reply(text):
    for user in range(5):
        _after(_talk(user, *GOOD, turns=2), text)


def test_dismissal_lowers_trust_and_the_reply_is_shorter():
    falls, lengths, usual = [], [], []
    for user in range(60):
        state = _talk(user, *GOOD, turns=4)
        if state.num_user_turns < 4:
            continue
        before = Mind.model_validate(state.user_memory).trust
        reply = _after(state, DISMISSIVE)
        falls.append(before - reply.memory["trust"])
        lengths.append(len(words(reply.text)))
        usual.append(len(words(_after(state, GOOD[3]).text)))
    assert min(falls) > 0
    assert mean(lengths) < 0.6 * mean(usual)


def test_some_users_grow_aggressive_when_dismissed_and_some_leave():
    replies = [_after(_talk(user, *GOOD, turns=3), DISMISSIVE) for user in range(60)]
    assert sum("aggressive_to_chatbot" in r.actions for r in replies) > 15
    endless = [_talk(user, DISMISSIVE) for user in range(30)]
    assert mean(s.num_user_turns for s in endless) < 6


def test_repetition_frustrates_and_costs_patience():
    shown = []
    for user in range(40):
        state = _talk(user, GOOD[0], GOOD[1], GOOD[2], turns=4)
        before = Mind.model_validate(state.user_memory).patience
        reply = _after(state, GOOD[1])
        assert reply.memory["patience"] < before
        shown.append("frustrated_with_chatbot" in reply.actions)
    assert sum(shown) > 12


def test_good_listening_raises_trust():
    rises = [m[-1].trust - m[0].trust for m in (_memories(_talk(u, *GOOD, turns=7)) for u in range(40))]
    assert mean(rises) > 0.1


def test_users_who_want_to_vent_disagree_with_advice_more_often():
    advice = "You should make a list of pros and cons."
    vents = [u for u in range(150) if traits_of(u, 0).goal == "vent"]
    plans = [u for u in range(150) if traits_of(u, 0).goal == "get advice"]
    rate = [
        mean("disagrees_with_chatbot" in _after(_talk(u, *GOOD, turns=2), advice).actions for u in users)
        for users in (vents, plans)
    ]
    assert rate[0] > rate[1] + 0.15


def test_users_who_must_leave_are_frustrated_when_the_chatbot_ignores_it():
    annoyed = 0
    for user in range(150):
        state = _talk(user, *GOOD * 4)
        if any("announces_leaving" in (t.utterance.actions or ()) for t in state.turns):
            annoyed += any("frustrated_with_chatbot" in (t.utterance.actions or ()) for t in state.turns)
    assert annoyed > 10


def test_no_fact_is_disclosed_twice():
    for user in range(30):
        told = _memories(_talk(user, *GOOD * 4))[-1].told
        assert len(told) == len(set(told))


def test_fact_ids_are_unique():
    ids = [f.fact_id for c in concerns().values() for f in c.facts]
    ids += [f.fact_id for f in (*shared_facts(), *update_facts())]
    assert len(ids) == len(set(ids))


def test_a_later_session_has_new_facts():
    for user in range(20):
        first, second = (agenda_of(user, session, 0)[:12] for session in (0, 1))
        assert not {f.fact_id for f in first} & {f.fact_id for f in second}


def test_names_jobs_and_places_stay_fixed_within_a_session():
    names = {n.lower() for gender in "fm" for n in first_names(gender)}
    for user in range(40):
        traits = traits_of(user, 0)
        allowed = {traits.slots[key].lower() for key in ("who_name", "friend", "petname")}
        used = {w for text in _texts(_talk(user, *GOOD * 4)) for w in re.findall(r"\w+", text.lower())}
        assert used & names <= allowed


def test_traits_are_a_function_of_user_and_seed():
    assert traits_of(17, 3) == traits_of(17, 3)
    assert traits_of(17, 3) != traits_of(18, 3) and traits_of(17, 3) != traits_of(17, 4)


def test_every_concern_goal_and_style_occurs():
    people = [traits_of(u, 0) for u in range(600)]
    assert len({p.concern for p in people}) == len(concerns()) >= 12
    assert len({p.goal for p in people}) == 5 and len({p.style for p in people}) == 5


def test_every_user_message_has_action_labels():
    state = _talk(2, *GOOD * 4)
    assert all(t.utterance.actions is not None for t in state.turns if t.role == "user")


def test_users_are_chosen_by_the_traits_that_are_wanted():
    wanted = {"style": ["formal", "plain"], "words": [5, 24], "resistance": [0, 0.45]}
    chosen = [user for user in range(300) if has_traits(traits_of(user, 0), wanted)]
    assert 10 < len(chosen) < 150
    for user in chosen:
        traits = traits_of(user, 0)
        assert traits.style in ("formal", "plain") and traits.words <= 24 and traits.resistance <= 0.45
    assert all(has_traits(traits_of(user, 0), {}) for user in range(20))


def test_scaled_users_have_the_facts_of_the_same_users_and_other_numbers():
    traits = traits_of(3, 0)
    with scaled({"words": 0.5, "filling": 0}):
        other = traits_of(3, 0)
    assert other == traits.model_copy(update={"words": 0.5 * traits.words, "filling": 0})
    assert traits_of(3, 0) == traits
    brief, usual = (
        [
            len(m.content.split())
            for s in first_sessions(8, 0, [make_chatbot("warm")], factors=f)
            for m in s.messages
            if m.role == "user"
        ]
        for f in ({"words": 0.4, "filling": 0}, {})
    )
    assert sum(brief) / len(brief) < 0.7 * sum(usual) / len(usual)
    assert factor_problems({"wrods": 0.5, "style": 2}) and not factor_problems({"words": 0.5})


@pytest.mark.parametrize(
    ("wanted", "problem"),
    [
        ({"stile": ["formal"]}, r"unknown trait 'stile'.*style"),
        ({"style": ["loud"]}, r"style: unknown value 'loud'.*formal"),
        ({"style": []}, "style: expected at least one value"),
        ({"words": [30]}, r"words: expected \[lowest, highest\]"),
        ({"words": [30, 20]}, r"words: expected \[lowest, highest\]"),
        ({"words": ["few", "many"]}, r"words: expected \[lowest, highest\]"),
        ({"concern": ["panics"]}, r"concern: unknown value 'panics'.*panic"),
    ],
)
def test_wrong_traits_are_named(wanted, problem):
    (found,) = trait_problems(wanted)
    assert re.search(problem, found)
