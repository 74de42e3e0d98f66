"""The classifier of user actions: fitted on labelled sessions of the population, it agrees with the truth on others."""

from __future__ import annotations

import pytest

from rlenv.core.aio import run
from rlenv.core.errors import ConfigError
from rlenv.core.types import Message, Session
from rlenv.judges.compare import category_agreement
from rlenv.judges.learned import MIN_MESSAGES, ActionClassifier
from rlenv.population.corpus import generate_sessions


def test_it_agrees_with_the_true_actions_of_users_it_never_saw():
    judge = ActionClassifier(generate_sessions(200, 1, 5))
    held_out = generate_sessions(40, 1, 6)
    judged = [run(judge.annotate(session)).labels for session in held_out]
    pairs = [(m.actions, labels) for s, found in zip(held_out, judged, strict=True)
             for m, labels in zip(s.messages, found, strict=True) if m.role == "user"]  # fmt: skip
    true_labels, predicted = zip(*pairs, strict=True)
    found = category_agreement(true_labels, predicted, judge.actions)
    for action in ("describes_impact", "talks_about_relationships", "expresses_gratitude", "asks_for_advice"):
        assert found[action].kappa > 0.8, action


def test_chatbot_messages_get_no_labels_and_messages_keep_their_order():
    session = generate_sessions(1, 1, 6)[0]
    labels = run(ActionClassifier(generate_sessions(40, 1, 5)).annotate(session)).labels
    assert len(labels) == len(session.messages)
    assert all(not found for m, found in zip(session.messages, labels, strict=True) if m.role == "assistant")


def test_too_few_labelled_messages_are_refused():
    message = Message(role="user", content="hello", actions=("greets",))
    with pytest.raises(ConfigError, match=f"expected an action on {MIN_MESSAGES} or more"):
        ActionClassifier([Session(session_id="s", messages=(message,))])
