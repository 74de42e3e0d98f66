"""How a conversation advances, ends, is cut back to a turn, and continues: pure functions of records."""

from __future__ import annotations

import asyncio

import pytest

from rlenv.core.errors import ConfigError
from rlenv.core.types import ConversationState, Message, Session, SessionContext, Utterance
from rlenv.env.conversation import (
    Limits,
    apply,
    before_user_turn,
    begin,
    converse,
    from_session,
    reply_seed,
    to_session,
)
from rlenv.speakers.scripted import ScriptedChatbot, ScriptedUser


def conversation(*texts: str, opener="user", limits=Limits(), seed=0) -> ConversationState:
    state = begin("c", SessionContext(), opener=opener, seed=seed)
    for text in texts:
        assert state.end is None
        state = apply(state, Utterance(text=text), limits)
    return state


def spoken(seed: int, opener="user", leave_rate=0.15) -> ConversationState:
    state = begin("c", SessionContext(), opener=opener, seed=seed)
    return asyncio.run(converse(state, ScriptedUser(leave_rate=leave_rate), ScriptedChatbot(), Limits(max_turns=9)))


@pytest.mark.parametrize("opener", ["user", "assistant"])
def test_the_seats_take_turns_from_whoever_opens(opener):
    roles = [t.role for t in conversation("a", "b", "c", "d", opener=opener).turns]
    other = {"user": "assistant", "assistant": "user"}[opener]
    assert roles == [opener, other, opener, other]


def test_the_last_allowed_user_message_truncates_the_conversation_without_a_reply():
    state = conversation("a", "b", "c", limits=Limits(max_turns=2))
    assert state.end is not None and (state.end.by, state.end.reason) == ("limit", "max_turns")
    assert state.end.truncated and state.turns[-1].role == "user"


def test_the_tokens_of_a_silent_leave_are_kept_in_the_end_and_add_no_turn():
    state = begin("c", SessionContext())
    leave = Utterance(text="", ends_session=True, token_ids=(9,), logprobs=(-1.0,), memory={"trust": 0.1})
    state = apply(state, leave, Limits())
    assert state.turns == () and state.user_memory == {"trust": 0.1}
    assert state.end is not None and state.end.said == leave.model_copy(update={"memory": None})
    assert ConversationState.model_validate(state.model_dump(mode="json")) == state
    spoken_end = apply(begin("c", SessionContext()), Utterance(text="bye", ends_session=True), Limits())
    assert spoken_end.end is not None and spoken_end.end.said is None


def test_sampled_tokens_of_both_seats_count_towards_the_token_cap():
    limits = Limits(max_tokens=5)
    state = begin("c", SessionContext())
    state = apply(state, Utterance(text="a", token_ids=(1, 2)), limits)
    state = apply(state, Utterance(text="b", token_ids=(3, 4)), limits)
    assert state.end is None
    state = apply(state, Utterance(text="c", token_ids=(5,)), limits)
    assert state.end is not None and state.end.reason == "max_tokens" and state.end.truncated


def test_leaving_with_a_message_adds_a_turn_and_leaving_silently_adds_none():
    state = conversation("a", "b")
    with_words = apply(state, Utterance(text="bye", ends_session=True), Limits())
    without = apply(state, Utterance(text="", ends_session=True), Limits())
    assert (len(with_words.turns), len(without.turns)) == (3, 2)
    for after in (with_words, without):
        assert after.end is not None and (after.end.by, after.end.reason) == ("user", "end_of_session")
        assert not after.end.truncated


def test_leaving_in_the_last_allowed_turn_terminates_and_does_not_truncate():
    state = apply(conversation("a", "b"), Utterance(text="bye", ends_session=True), Limits(max_turns=2))
    assert state.end is not None and state.end.by == "user"


def test_an_empty_message_that_does_not_end_the_session_is_a_turn():
    assert [t.utterance.text for t in conversation("a", "", "c").turns] == ["a", "", "c"]


def test_cutting_back_to_a_turn_restores_the_state_before_it_with_memories():
    state = begin("c", SessionContext(), seed=4)
    user, chatbot, states = ScriptedUser(leave_rate=0.0), ScriptedChatbot(), {}
    while state.end is None:
        if state.next_role() == "user":
            states[state.num_user_turns + 1] = state
        speaker = user if state.next_role() == "user" else chatbot
        state = apply(state, asyncio.run(speaker.reply(state, reply_seed(state))), Limits(max_turns=5))
    assert len(states) == 5
    for turn, before in states.items():
        assert before_user_turn(state, turn) == before


def test_there_is_no_turn_before_the_first_or_after_the_last():
    for turn in (0, 3):
        with pytest.raises(IndexError, match=f"no user message {turn}; it has 2"):
            before_user_turn(conversation("a", "b", "c"), turn)


def test_equal_seeds_continue_a_cut_conversation_identically():
    whole = spoken(seed=11, leave_rate=0.05)
    turns = whole.num_user_turns
    assert turns > 2
    user, chatbot = ScriptedUser(leave_rate=0.05), ScriptedChatbot()
    for turn in range(1, turns + 1):
        again = asyncio.run(converse(before_user_turn(whole, turn), user, chatbot, Limits(max_turns=9)))
        assert again == whole


def test_the_seed_of_a_reply_depends_only_on_seed_position_and_salt():
    one, two = conversation("a", seed=1), conversation("z", seed=1)
    assert reply_seed(one) == reply_seed(two)
    others = [
        reply_seed(conversation("a", seed=2)),
        reply_seed(conversation("a", "b", seed=1)),
        reply_seed(one, "x"),
        reply_seed(one, "x", 1),
    ]
    assert len({reply_seed(one), *others}) == 5


def test_states_survive_json():
    state = spoken(seed=3)
    assert ConversationState.model_validate_json(state.model_dump_json()) == state


def test_a_session_record_has_the_texts_roles_and_labels():
    state = begin("c", SessionContext(profile="p"), opener="assistant")
    state = apply(state, Utterance(text="hi", issues=("rushed",)), Limits())
    state = apply(state, Utterance(text="hm", actions=("disagrees",)), Limits())
    session = to_session(state, session_id="s", source="t", chatbot="b", user_id="u")
    assert [(m.role, m.content, m.actions, m.issues) for m in session.messages] == [
        ("assistant", "hi", None, ("rushed",)),
        ("user", "hm", ("disagrees",), None),
    ]
    assert (session.user_id, session.chatbot, session.context.profile) == ("u", "b", "p")


@pytest.mark.parametrize("bad", [{"max_turns": 0}, {"max_tokens": -1}, {"max_seconds": 0}])
def test_limits_are_above_zero(bad):
    with pytest.raises(ConfigError, match=next(iter(bad))):
        Limits(**bad)


def test_a_session_is_a_conversation_again_with_its_texts_alone():
    said = (Message(role="assistant", content="Hello."), Message(role="user", content="Hi."))
    session = Session(session_id="s", context=SessionContext(profile="p"), messages=said)
    state = from_session(session, seed=3)
    assert (state.context_id, state.opener, state.seed, state.end) == ("s", "assistant", 3, None)
    assert to_session(state, session_id="s", source="", chatbot="unknown") == session
    assert from_session(Session(session_id="s")) == begin("s", SessionContext())
