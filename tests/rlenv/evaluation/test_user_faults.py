"""The audit of the simulated user, against a labelled sample and by examples."""

from __future__ import annotations

import pytest

from rlenv.core.types import Message, Session, SessionContext
from rlenv.evaluation.user_faults import KINDS, count_faults, user_faults, without_faults
from rlenv.population.corpus import generate_sessions
from rlenv.population.planted.faults import NONE, TRAPS, plant_faults


def session(*texts: str, profile: str = "Nora, 36, electrician. Concern: sleep.", **extra: object) -> Session:
    """A session of alternating messages, the user's first."""
    messages = [Message(role=("user", "assistant")[i % 2], content=text) for i, text in enumerate(texts)]
    context = SessionContext(profile=profile, long_term_context="People: wife Mia, friend Tom.")
    return Session.model_validate({"session_id": "s", "messages": messages, "context": context, **extra})


def test_on_a_labelled_sample_what_is_told_is_right_and_most_is_told():
    sample = plant_faults(180, 3)
    for kind in KINDS:
        told = [s.kind for s in sample if kind in user_faults(s.session)]
        planted = [s for s in sample if s.kind == kind]
        assert told.count(kind) >= 0.85 * len(told), kind
        assert told.count(kind) >= 0.45 * len(planted), kind


def test_true_users_of_the_population_are_hardly_ever_at_fault():
    found = count_faults(generate_sessions(120, 1, 4))
    assert found.num == 120 and found.spoiled <= 2


@pytest.mark.parametrize("text", TRAPS)
def test_what_people_say_is_no_fault(text):
    assert user_faults(session("Hi.", "What is it?", text, ended_by="limit")) == ()


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("I’m here to listen.", "speaks_as_chatbot"),
        ("It sounds like you are tired.", "speaks_as_chatbot"),
        ("What keeps you awake at night then?", "speaks_as_chatbot"),  # the chatbot's own words
        ("I'm 23, you know.", "contradicts_profile"),
        ("My name is Laura.", "contradicts_profile"),
        ("My husband is asleep.", "contradicts_profile"),
        ("I told my wife Jane.", "contradicts_profile"),
        ("No way. No way out. No way out. No way out.", "repeats_itself"),
        ("I lie awake thinking about the unpaid bills", "repeats_itself"),
    ],
)
def test_each_kind_of_fault_is_told(text, kind):
    said = session("I lie awake thinking about the unpaid bills.", "What keeps you awake at night then?", text)
    assert user_faults(said) == (kind,)


@pytest.mark.parametrize(
    "text", ["I'm 36.", "I'm 36 years old, I'm 5 minutes late.", "My wife Mia sleeps.", "My name is nora"]
)
def test_what_the_profile_says_is_no_contradiction(text):
    assert user_faults(session(text)) == ()


def test_who_leaves_early_without_a_goodbye_is_told_and_who_says_goodbye_is_not():
    assert user_faults(session("I can't sleep.", ended_by="user")) == ("left_early",)
    assert user_faults(session("I can't sleep. Sorry, I have to go.", ended_by="user")) == ()
    assert user_faults(session("I can't sleep.", ended_by="limit")) == ()
    talk = ["Hi.", "Hello.", "I can't sleep.", "Since when?", "May.", "I see.", "Is that normal?"]
    assert user_faults(session(*talk, ended_by="user")) == ("left_early",)


def test_sessions_without_faults_are_kept_in_order():
    sample = [s.session for s in plant_faults(12, 5)]
    assert without_faults(sample) == [s for s in sample if not user_faults(s)]
    assert {s.kind for s in plant_faults(12, 5)} == {*KINDS, NONE}
