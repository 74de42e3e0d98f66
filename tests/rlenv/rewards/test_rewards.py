"""Rewards by hand and on the population: what is charged to which step, sums, seats, and specs that are wrong."""

from __future__ import annotations

import asyncio
import itertools
import pickle
import sys

import pytest

from rlenv.core.errors import ConfigError
from rlenv.core.types import Annotation, ConversationState, End, SessionContext, Turn, Utterance
from rlenv.env.collect import Episode, collect, in_order
from rlenv.env.conversation import Limits, begin, to_session
from rlenv.env.core import ConversationCore
from rlenv.env.scenarios import Scenario
from rlenv.population.chatbots.scripted import chatbot_names, make_chatbot
from rlenv.population.oracle import issues_of
from rlenv.population.scenarios import population_scenarios
from rlenv.population.users.user import PopulationUser
from rlenv.rewards.labels import JudgedLabels, self_labelled_actions
from rlenv.rewards.registry import make_reward, register_reward, reward_names
from rlenv.rewards.terms import IssueFreeReward, JudgeReward, RealismReward, UserActionsReward
from rlenv.speakers.scripted import ScriptedChatbot, ScriptedDiscriminator, ScriptedJudge, ScriptedUser

LEFT = End(by="user", reason="end_of_session")
WRAP_UP, DISMISSAL = "premature_wrap_up", "invalidating_or_dismissive_framing"


def conversation(*messages: str | tuple[str, tuple[str, ...]], end: End | None = None) -> ConversationState:
    """Returns a conversation that the user opens; a message may come with the user's actions."""
    turns = []
    for i, message in enumerate(messages):
        text, actions = message if isinstance(message, tuple) else (message, None)
        role = "user" if i % 2 == 0 else "assistant"
        turns.append(Turn(role=role, utterance=Utterance(text=text, actions=actions)))
    return begin("c", SessionContext(), seed=1).model_copy(update={"turns": tuple(turns), "end": end})


def before(state: ConversationState, num_messages: int) -> ConversationState:
    return state.model_copy(update={"turns": state.turns[:num_messages], "end": None})


def parts(reward, past, now) -> dict[str, float]:
    return asyncio.run(reward(past, now))


class Wrote:
    """A judge that says what the test wrote down."""

    def __init__(self, *labels: tuple[str, ...], score: float | None = None) -> None:
        self.annotation = Annotation(labels=labels, score=score)

    async def annotate(self, session):
        return self.annotation


# -------------------------------------------------------------------------------------- by hand


def test_an_issue_is_charged_to_the_message_where_it_occurred_once_and_by_its_weight():
    said = conversation("I feel low", "It is not a big deal", "thanks for nothing", "Let us stop here", "I'm not done")
    judge = Wrote((), (DISMISSAL,), (), (WRAP_UP, "blank_message"), ())
    reward = IssueFreeReward({WRAP_UP: 2.5}, 0.5, JudgedLabels(judge, "assistant"))
    assert parts(reward, before(said, 3), said) == {"issue_free": -(2.5 + 0.5)}  # not -3.5: the first is paid for
    two = Wrote((), (DISMISSAL,), ())
    reward = IssueFreeReward({WRAP_UP: 2.5}, 0.5, JudgedLabels(two, "assistant"))
    assert parts(reward, before(said, 1), before(said, 3)) == {"issue_free": -0.5}


def test_detectors_say_what_was_wrong_where_they_are_the_source():
    said = conversation("I feel low", "", "hello?", "What happened today?", "work")
    reward = make_reward({"issue_free": {"source": "detectors", "categories": {"blank_message": 3.0}}})
    assert parts(reward, before(said, 1), before(said, 3)) == {"issue_free": -3.0}
    assert parts(reward, before(said, 3), said) == {"issue_free": 0.0}


def test_a_clean_message_is_worth_what_is_said_and_leaving_without_a_word_is_not():
    said = conversation("I feel low", "Why is that?", "work", "It is not a big deal", "thanks for nothing")
    reward = IssueFreeReward(issues=JudgedLabels(Wrote((), (), ()), "assistant"), clean=0.5)
    assert parts(reward, before(said, 1), before(said, 3)) == {"issue_free": 0.5}
    reward = IssueFreeReward(issues=JudgedLabels(Wrote((), (), (), (DISMISSAL,), ()), "assistant"), clean=0.5)
    assert parts(reward, before(said, 3), said) == {"issue_free": -1.0}
    assert parts(reward, said, said) == {"issue_free": 0.0}
    with pytest.raises(ConfigError, match=r"issue_free.clean: expected a number of 0 or more, got -1"):
        make_reward({"issue_free": {"clean": -1}})


def test_without_a_judge_the_oracle_says_what_was_wrong():
    said = conversation(
        "my boss keeps dumping work on me and I feel so tired", "You're overreacting, it's not a big deal.",
        "wow, thanks for nothing", "That sounds hard. What happened?", "it was the report again, he wanted it today",
    )  # fmt: skip
    reward = IssueFreeReward({DISMISSAL: 3.0})
    assert parts(reward, before(said, 1), before(said, 3)) == {"issue_free": -3.0}
    assert parts(reward, before(said, 3), said) == {"issue_free": 0.0}


def test_good_and_bad_actions_of_the_answer_count_and_no_others():
    good, bad, neutral = "gained_an_insight", "frustrated_with_chatbot", "describes_situation"
    said = conversation(
        ("hi", (good, bad)), "Why?", ("oh", (good, "change_talk", neutral)), "What else?", ("stop it", (bad,))
    )
    reward = UserActionsReward(good=1.0, bad=4.0)
    assert parts(reward, before(said, 1), before(said, 3)) == {"user_actions": 2.0}
    assert parts(reward, before(said, 3), said) == {"user_actions": -4.0}
    assert parts(reward, before(said, 3), before(said, 4)) == {"user_actions": 0.0}  # left without a word


def test_actions_come_from_a_judge_where_the_user_labels_nothing():
    said = conversation("hi", "Why?", "you already asked that")
    with pytest.raises(ConfigError, match=r"conversation c: user message 1 .*source: judge"):
        parts(UserActionsReward(), before(said, 1), said)
    judge = Wrote((), (), ("corrects_chatbot", "agrees_with_chatbot", "questions_chatbot"))
    assert parts(UserActionsReward(actions=JudgedLabels(judge, "user")), before(said, 1), said) == {
        "user_actions": 1.0 - 2.0
    }
    with pytest.raises(ConfigError, match="labelled 1 of 3 messages"):
        parts(UserActionsReward(actions=JudgedLabels(Wrote(()), "user")), before(said, 1), said)


def test_a_judges_score_is_given_once_at_the_end():
    said = conversation("hi", "Why?", "bye", end=LEFT)
    reward = JudgeReward(Wrote(score=0.75))
    assert parts(reward, before(said, 1), before(said, 3)) == {"judge": 0.0}
    assert parts(reward, before(said, 1), said) == {"judge": 0.75}
    with pytest.raises(ConfigError, match="gave no score"):
        parts(JudgeReward(Wrote()), before(said, 1), said)


def test_a_sum_is_weighted_and_shows_its_parts():
    said = conversation(("hi", ()), "Why?", ("ah", ("change_talk",)), end=LEFT)
    spec = {
        "issue_free": {"weight": 2.0, "categories": {WRAP_UP: 3.0}, "source": "judge"},
        "user_actions": 0.5,
        "judge": None,
    }
    reward = make_reward(spec, judge=Wrote((), (WRAP_UP,), (), score=0.25))
    assert parts(reward, before(said, 1), said) == {"issue_free": -6.0, "user_actions": 0.5, "judge": 0.25}


# ------------------------------------------------------------------------------ on the population


def test_on_the_population_the_steps_add_up_to_the_whole_conversations_labels():
    agent = make_chatbot(chatbot_names()[-1])
    reward = make_reward(
        {"issue_free": {"categories": {WRAP_UP: 2.0}}, "user_actions": {"weight": 0.5}}, seat="chatbot"
    )
    core = ConversationCore(population_scenarios()[:12], {"u": PopulationUser()}, "chatbot", Limits(8), reward)
    episodes = [
        Episode(episode_id=str(i), context_id=s.context_id, counterpart="u", seed=i)
        for i, s in enumerate(population_scenarios()[:12])
    ]
    num_issues = num_actions = 0
    for result in asyncio.run(in_order(collect(agent, core.sibling, episodes), episodes)):
        issues, state = issues_of(result.state), result.state
        assert len(result.rewards) == len(result.reward_parts) == len(issues)
        for found, charged in zip(issues, result.reward_parts, strict=True):
            assert charged["issue_free"] == -sum(2.0 if i == WRAP_UP else 1.0 for i in found)
        for reward_, charged in zip(result.rewards, result.reward_parts, strict=True):
            assert reward_ == pytest.approx(sum(charged.values()))
        answers = asyncio.run(self_labelled_actions(state))[state.opener == "user" :]
        taxonomy = UserActionsReward().taxonomy
        net = sum((a in taxonomy.action_ids("good")) - (a in taxonomy.action_ids("bad")) for x in answers for a in x)
        assert sum(c["user_actions"] for c in result.reward_parts) == pytest.approx(0.5 * net)
        num_issues += sum(map(len, issues))
        num_actions += sum(c["user_actions"] != 0 for c in result.reward_parts)
    assert num_issues > 3 and num_actions > 3


def test_the_users_seat_is_rewarded_by_realism_and_a_judge():
    scenario = Scenario(context_id="c", user_id="u", context=SessionContext())
    reward = make_reward(
        {"realism": 1.0, "judge": {"weight": 0.1}},
        seat="user",
        discriminator=ScriptedDiscriminator(3),
        judge=ScriptedJudge(),
    )

    async def play():
        core = ConversationCore([scenario], {"bot": ScriptedChatbot()}, "user", Limits(max_turns=3), reward)
        await core.reset(seed=0)
        infos = [(await core.step("Hm."))[1::3] for _ in range(3)]
        session = to_session(core.state, session_id="c", source="t", chatbot="b")
        return infos, (await ScriptedDiscriminator(3).log_odds(session)).log_odds

    steps, log_odds = asyncio.run(play())
    realism = [info["rewards"]["realism"] for _, info in steps]
    assert realism == pytest.approx([b - a for a, b in itertools.pairwise(log_odds)])
    assert [info["rewards"]["judge"] > 0 for _, info in steps] == [False, False, True]


# ------------------------------------------------------------------------------------ the registry


def test_a_wrong_spec_is_told_all_that_is_wrong_with_it():
    spec = {
        "issue_fre": 1.0,
        "issue_free": {"weight": "much", "categories": {"premature_wrapup": 1.0, WRAP_UP: -1.0}, "default": None},
        "user_actions": {"goood": 1.0, "source": "guess"},
        "judge": {},
    }
    with pytest.raises(ConfigError) as caught:
        make_reward(spec)
    lines = str(caught.value).splitlines()
    for told in (
        "rewards.issue_fre: no such reward; there are issue_free, judge, realism, user_actions",
        "rewards.issue_free.weight: expected a finite number, got 'much'",
        "rewards.issue_free.categories: no issue 'premature_wrapup'",
        "did you mean 'premature_wrap_up'?",
        f"rewards.issue_free.categories.{WRAP_UP}: expected a number of 0 or more, got -1.0",
        "rewards.issue_free.default: expected a number of 0 or more, got None",
        "rewards.user_actions: no option 'goood'; there are bad, good, source, taxonomy, weight; did you mean 'good'?",
        "rewards.judge: needs a judge, and none is served here",
    ):
        assert any(told in line for line in lines), told
    assert len(lines) == 7
    with pytest.raises(ConfigError, match="source: 'guess'; there are judge, user"):
        make_reward({"user_actions": {"source": "guess"}})
    with pytest.raises(ConfigError, match="no judge is served here"):
        make_reward({"issue_free": {"source": "judge"}})
    for nothing in ({}, [], "issue_free"):
        with pytest.raises(ConfigError, match="expected name: settings"):
            make_reward(nothing)


def test_a_reward_in_the_wrong_seat_is_refused_when_it_is_made_and_when_it_is_used():
    judge = ScriptedDiscriminator()
    for seat, spec in (("chatbot", {"realism": 1.0}), ("user", {"issue_free": 1.0, "user_actions": 1.0})):
        with pytest.raises(ConfigError) as caught:
            make_reward(spec, seat=seat, discriminator=judge)
        assert [line.split(":")[0] for line in str(caught.value).splitlines()] == [f"rewards.{name}" for name in spec]
        reward = make_reward(spec, discriminator=judge)
        counterparts = {"a": ScriptedUser()} if seat == "chatbot" else {"a": ScriptedChatbot()}
        scenario = Scenario(context_id="c", user_id="u", context=SessionContext())
        with pytest.raises(ConfigError, match=f"got seat '{seat}'"):
            ConversationCore([scenario], counterparts, seat, reward=reward)
    with pytest.raises(ConfigError, match="seat 'user', got seat 'chatbot'"):
        ConversationCore([scenario], {"a": ScriptedUser()}, "chatbot", reward=RealismReward(judge))


class Brevity:
    """A reward of a user's own: minus the agent's words over a number."""

    def __init__(self, words: int) -> None:
        self.words = words

    async def __call__(self, before, after):
        said = after.turns[len(before.turns)].utterance.text
        return {"brevity": -float(max(0, len(said.split()) - self.words)), "said": 1.0}


def brevity(words: int = 3):
    return Brevity(words)


sys.modules.setdefault("rewards_under_test", sys.modules[__name__])


def test_own_rewards_join_by_name_or_by_import_path():
    if "brevity" not in reward_names():
        register_reward("brevity")(brevity)
    said = conversation("hi", "one two three four five", "ok")
    for name in ("brevity", "rewards_under_test:brevity"):
        found = parts(make_reward({name: {"weight": 2.0, "words": 4}}), before(said, 1), said)
        assert found == {f"{name}/brevity": -2.0, f"{name}/said": 2.0}
    with pytest.raises(ConfigError, match="registered already"):
        register_reward("brevity")(lambda: Brevity(1))
    with pytest.raises(ConfigError, match="no callable at 'rewards_under_test:nothing'"):
        make_reward({"rewards_under_test:nothing": 1.0})


def test_rewards_travel_to_other_processes():
    spec = {"issue_free": {"source": "judge"}, "user_actions": 1.0, "judge": 2.0}
    reward = make_reward(spec, judge=ScriptedJudge(4))
    said = conversation(("hi", ()), "Why?", ("ah", ("change_talk",)), end=LEFT)
    assert parts(pickle.loads(pickle.dumps(reward)), before(said, 1), said) == parts(reward, before(said, 1), said)
