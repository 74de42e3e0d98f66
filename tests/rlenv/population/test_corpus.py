"""The embedded corpus: deterministic, consistent with its contexts, and close to real users in its statistics."""

from functools import cache

import numpy as np
import pytest

from rlenv.core.taxonomy import load_taxonomy
from rlenv.core.types import Session
from rlenv.data.linguistics import diversity, session_diversity, words
from rlenv.env.conversation import Limits
from rlenv.population.chatbots.scripted import chatbot_names, make_chatbot
from rlenv.population.corpus import context_of, first_session, generate_sessions
from rlenv.population.users.traits import traits_of


@cache
def _sessions() -> tuple[Session, ...]:
    return tuple(generate_sessions(200, 1, seed=0))


def test_equal_seeds_give_equal_sessions():
    assert generate_sessions(4, 2, seed=5) == generate_sessions(4, 2, seed=5)
    assert generate_sessions(4, 1, seed=5) != generate_sessions(4, 1, seed=6)


def test_a_users_sessions_do_not_depend_on_the_size_of_the_corpus():
    assert list(_sessions()[:5]) == generate_sessions(5, 1, seed=0)


def test_lexical_statistics_are_close_to_those_of_real_users():
    stats = diversity(_sessions())
    assert 6.3 <= stats["entropy_mean"] <= 6.8
    assert 0.45 <= stats["ttr_mean"] <= 0.55
    assert 0.82 <= stats["bigram_mean"] <= 0.92
    assert 10.5 <= stats["turns_mean"] <= 13.5
    assert stats["entropy_sd"] > 0.3 and stats["ttr_sd"] > 0.05


def test_message_lengths_are_ordinary_and_widely_spread():
    lengths = [len(words(text)) for s in _sessions() for text in s.user_messages()]
    assert 20 <= np.mean(lengths) <= 30
    assert np.percentile(lengths, 10) < 10 and np.percentile(lengths, 90) > 45


def test_the_vocabulary_has_at_most_three_thousand_words():
    vocabulary = {w for s in _sessions() for m in s.messages for w in words(m.content)}
    assert 1500 <= len(vocabulary) <= 3000


def test_message_lengths_vary_more_between_users_than_within():
    lengths = [[len(words(t)) for t in s.user_messages()] for s in generate_sessions(40, 3, seed=2)]
    by_user = [[np.mean(n) for n in lengths[i : i + 3]] for i in range(0, len(lengths), 3)]
    between = np.var([np.mean(means) for means in by_user])
    within = np.mean([np.var(means) for means in by_user])
    assert between > 2 * within


def test_messages_alternate_and_are_labelled_with_the_taxonomy():
    taxonomy = load_taxonomy()
    for session in _sessions():
        for before, after in zip(session.messages, session.messages[1:], strict=False):
            assert before.role != after.role
        for m in session.messages:
            if m.role == "user":
                assert m.content and m.actions is not None and set(m.actions) <= set(taxonomy.action_ids())
            else:
                assert m.issues is not None and set(m.issues) <= set(taxonomy.issue_ids())


def test_issue_rates_differ_between_chatbots_and_are_rare_overall():
    rates = {}
    for session in _sessions():
        rates.setdefault(session.chatbot, []).extend(bool(m.issues) for m in session.messages if m.role == "assistant")
    assert set(rates) == set(chatbot_names())
    assert 0.02 < np.mean([flag for flags in rates.values() for flag in flags]) < 0.07
    assert np.mean(rates["steady"]) < 0.025 < 0.06 < np.mean(rates["scattered"]) < 0.2


def test_sessions_are_named_after_their_user():
    session = generate_sessions(2, 2, seed=9)[-1]
    assert (session.user_id, session.session_id) == ("pop-9-1", "pop-9-1-1")


def test_users_talk_only_to_the_requested_chatbots():
    assert {s.chatbot for s in generate_sessions(6, 1, seed=1, chatbots=["warm", "stoic"])} <= {"warm", "stoic"}


def test_a_first_context_is_short_and_consistent_with_the_traits():
    for user in range(30):
        context_id, context = context_of(user, 0, seed=0)
        traits = traits_of(user, 0)
        assert context_id == f"pop-0-{user}-0"
        assert traits.name in context.profile and traits.goal in context.profile
        assert traits.slots["friend"] in context.long_term_context
        assert context.previous_summaries == () and context.recent_sessions == ()
        parts = (context.profile, context.situation, context.long_term_context, context.current_summary)
        assert 40 <= sum(len(part.split()) for part in parts) <= 120
        assert context.model_extra["population"] == {"user": user, "session": 0, "seed": 0}


def test_a_later_context_has_summaries_and_messages_of_earlier_sessions():
    first, second, third = generate_sessions(1, 3, seed=4)
    assert len(third.context.previous_summaries) == 2
    assert second.context.recent_sessions[0][-1].content == first.messages[-1].content
    assert third.context.previous_summaries[0] == second.context.previous_summaries[0]
    assert context_of(0, 2, seed=4)[1] == third.context


def test_no_template_is_left_unfilled():
    text = "\n".join(m.content for s in _sessions() for m in s.messages)
    assert not any(mark in text for mark in "{}[]|")


@pytest.mark.parametrize("session", range(3))
def test_sessions_of_one_user_have_the_same_profile(session):
    one = generate_sessions(1, 3, seed=12)[session]
    assert one.context.profile == generate_sessions(1, 1, seed=12)[0].context.profile
    assert session_diversity(one)["turns"] >= 1


def test_a_users_first_session_with_a_requested_chatbot_has_the_same_context():
    limits = Limits(max_turns=5)
    one, two = (first_session(7, 3, make_chatbot(name), limits) for name in ("steady", "echo"))
    assert one.chatbot == "steady" and two.chatbot == "echo" and one.context == two.context
    assert one == next(s for s in generate_sessions(8, 1, 3, chatbots=("steady",), limits=limits)[7:])
    assert max(len(one.user_messages()), len(two.user_messages())) <= 5
