"""What a round's figures are, worked by hand, and where their standard errors come from."""

import asyncio

import numpy as np
import pytest

from rlenv.core.types import Message, SessionContext
from rlenv.env.collect import Collected, Episode
from rlenv.env.conversation import Limits, begin, converse
from rlenv.evaluation.chatbot_rl.figures import evaluation_episode, figures_of
from rlenv.evaluation.chatbot_rl.records import EvaluationEpisode
from rlenv.evaluation.statistics.intervals import ratio_standard_error
from rlenv.population.chatbots.scripted import make_chatbot
from rlenv.population.oracle import issues_of
from rlenv.population.users.user import PopulationUser

CONTEXT = SessionContext.model_validate({"population": {"user": 3, "session": 0, "seed": 0}})


def held(context: str, seed: int, *replies: tuple[str, tuple[str, ...]], rewards=(0.0,), **more) -> EvaluationEpisode:
    messages = []
    for text, issues in replies:
        messages += [Message(role="user", content="hi"), Message(role="assistant", content=text, issues=issues)]
    said = tuple(messages)
    return EvaluationEpisode(context_id=context, counterpart="w", seed=seed, messages=said, rewards=rewards, **more)


CONVERSATIONS = [
    held("a", 1, ("one two three", ()), ("one two", ("blank_message",)), rewards=(1.0, 1.0), ended_by="user"),
    held("b", 1, ("one two four", ("blank_message", "blames_user")), rewards=(4.0,), reply_tokens=(5,), num_cut=1),
    EvaluationEpisode(context_id="b", counterpart="w", seed=2, failure="engine"),
]


def test_figures_are_those_worked_by_hand():
    found = figures_of(CONVERSATIONS)
    assert (found.num_conversations, found.num_failed, found.num_messages) == (2, 1, 3)
    assert found.reward.value == 3.0 and found.reward.standard_error == pytest.approx(1.0)
    assert found.reply_words.value == pytest.approx(8 / 3) and found.reply_words.num == 3
    assert (found.reply_tokens.value, found.reply_tokens.num) == (5.0, 1)
    assert found.cut_rate.value == pytest.approx(1 / 3)
    assert found.issue_rate.value == pytest.approx(2 / 3)
    assert {k: v.value for k, v in found.issues.items()} == pytest.approx(
        {"blames_user": 1 / 3, "blank_message": 2 / 3}
    )
    assert found.distinct_2.value == pytest.approx((2 / 3 + 1) / 2)  # one two, two three, one two | one two, two four
    assert found.sameness.value == pytest.approx((2 / 3 + 1 / 2) / 2)
    assert found.endings == {"None: None": 1, "user: None": 1}


def test_the_standard_error_counts_contexts_and_not_conversations():
    rng = np.random.default_rng(0)
    means = rng.normal(size=40)
    many = [held(f"c{c}", s, rewards=(float(m),)) for c, m in enumerate(means) for s in range(8)]
    found = figures_of(many).reward
    assert found.standard_error == pytest.approx(float(np.std(means, ddof=1)) / np.sqrt(40))
    assert found.num == 320


def test_unequal_contexts_weigh_by_their_messages():
    many = [held("a", 1, ("x", ("blank_message",))), held("b", 1, *[("x y", ())] * 3), held("b", 2, ("x", ()))]
    found = figures_of(many).issue_rate
    assert found.value == pytest.approx(1 / 5)
    assert found.standard_error == pytest.approx(ratio_standard_error([1, 0], [1, 4]))


def test_without_conversations_no_figure_is_measured():
    found = figures_of([EvaluationEpisode(context_id="a", counterpart="w", seed=1, failure="engine")])
    assert found.num_failed == 1 and found.reward.value is None and found.issue_rate.value is None


def test_an_episode_becomes_a_record_with_the_labels_on_the_chatbots_messages():
    state = asyncio.run(
        converse(begin("c", CONTEXT, seed=5), PopulationUser(), make_chatbot("glitchy"), Limits(max_turns=6))
    )
    episode = Episode(episode_id="e", context_id="c", counterpart="population", seed=5)
    labels = issues_of(state)
    found = evaluation_episode(Collected(episode=episode, state=state, rewards=(0.5,) * len(labels)), labels)
    assert found.key == ("c", "population", 5) and found.reply_tokens == ()
    assert [m.issues for m in found.messages if m.role == "assistant"] == list(labels)
    assert [m.actions for m in found.messages if m.role == "user"] == [
        t.utterance.actions for t in state.turns if t.role == "user"
    ]
    assert (found.ended_by, found.end_reason) == (state.end.by, state.end.reason)
    with pytest.raises(ValueError, match="labels for"):
        evaluation_episode(Collected(episode=episode, state=state), labels[1:])
    assert evaluation_episode(Collected(episode=episode, failure="engine", reason="x")).failure == "engine"
