"""Rewards worked by hand and on the population: credit per step, weighted sums, seats, and invalid specs."""

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


class FixedJudge:
    """A judge that returns a fixed annotation."""

    def __init__(self, *labels: tuple[str, ...], score: float | None = None) -> None:
        self.annotation = Annotation(labels=labels, score=score)

    async def annotate(self, session):
        return self.annotation


# -------------------------------------------------------------------------------------- by hand


def test_an_issue_is_charged_once_and_by_its_weight_to_the_step_of_its_message():
    whole = conversation("I feel low", "It is not a big deal", "thanks for nothing", "Let us stop here", "I'm not done")
    judge = FixedJudge((), (DISMISSAL,), (), (WRAP_UP, "blank_message"), ())
    reward = IssueFreeReward({WRAP_UP: 2.5}, 0.5, JudgedLabels(judge, "assistant"))
    assert parts(reward, before(whole, 3), whole) == {"issue_free": -(2.5 + 0.5)}  # DISMISSAL is of an earlier step
    two = FixedJudge((), (DISMISSAL,), ())
    reward = IssueFreeReward({WRAP_UP: 2.5}, 0.5, JudgedLabels(two, "assistant"))
    assert parts(reward, before(whole, 1), before(whole, 3)) == {"issue_free": -0.5}


def test_detectors_can_be_the_source_of_issues():
    whole = conversation("I feel low", "", "hello?", "What happened today?", "work")
    reward = make_reward({"issue_free": {"source": "detectors", "categories": {"blank_message": 3.0}}})
    assert parts(reward, before(whole, 1), before(whole, 3)) == {"issue_free": -3.0}
    assert parts(reward, before(whole, 3), whole) == {"issue_free": 0.0}


def test_a_message_without_issues_gets_the_clean_reward_and_a_silent_leave_does_not():
    whole = conversation("I feel low", "Why is that?", "work", "It is not a big deal", "thanks for nothing")
    reward = IssueFreeReward(issues=JudgedLabels(FixedJudge((), (), ()), "assistant"), clean=0.5)
    assert parts(reward, before(whole, 1), before(whole, 3)) == {"issue_free": 0.5}
    reward = IssueFreeReward(issues=JudgedLabels(FixedJudge((), (), (), (DISMISSAL,), ()), "assistant"), clean=0.5)
    assert parts(reward, before(whole, 3), whole) == {"issue_free": -1.0}
    assert parts(reward, whole, whole) == {"issue_free": 0.0}
    with pytest.raises(ConfigError, match=r"issue_free.clean: expected a number of 0 or more, got -1"):
        make_reward({"issue_free": {"clean": -1}})


def test_the_oracle_is_the_default_source_of_issues():
    whole = conversation(
        "my boss keeps dumping work on me and I feel so tired", "You're overreacting, it's not a big deal.",
        "wow, thanks for nothing", "That sounds hard. What happened?", "it was the report again, he wanted it today",
    )  # fmt: skip
    reward = IssueFreeReward({DISMISSAL: 3.0})
    assert parts(reward, before(whole, 1), before(whole, 3)) == {"issue_free": -3.0}
    assert parts(reward, before(whole, 3), whole) == {"issue_free": 0.0}


def test_only_good_and_bad_actions_of_the_reply_count():
    good, bad, neutral = "gained_an_insight", "frustrated_with_chatbot", "describes_situation"
    whole = conversation(
        ("hi", (good, bad)), "Why?", ("oh", (good, "change_talk", neutral)), "What else?", ("stop it", (bad,))
    )
    reward = UserActionsReward(good=1.0, bad=4.0)
    assert parts(reward, before(whole, 1), before(whole, 3)) == {"user_actions": 2.0}
    assert parts(reward, before(whole, 3), whole) == {"user_actions": -4.0}
    assert parts(reward, before(whole, 3), before(whole, 4)) == {"user_actions": 0.0}  # the user left without a message


def test_actions_of_users_that_do_not_label_their_messages_come_from_a_judge():
    whole = conversation("hi", "Why?", "you already asked that")
    with pytest.raises(ConfigError, match=r"conversation c: user message 1 .*source: judge"):
        parts(UserActionsReward(), before(whole, 1), whole)
    judge = FixedJudge((), (), ("corrects_chatbot", "agrees_with_chatbot", "questions_chatbot"))
    assert parts(UserActionsReward(actions=JudgedLabels(judge, "user")), before(whole, 1), whole) == {
        "user_actions": 1.0 - 2.0
    }
    with pytest.raises(ConfigError, match="labelled 1 of 3 messages"):
        parts(UserActionsReward(actions=JudgedLabels(FixedJudge(()), "user")), before(whole, 1), whole)


def test_a_judges_score_is_the_reward_of_the_last_step_only():
    whole = conversation("hi", "Why?", "bye", end=LEFT)
    reward = JudgeReward(FixedJudge(score=0.75))
    assert parts(reward, before(whole, 1), before(whole, 3)) == {"judge": 0.0}
    assert parts(reward, before(whole, 1), whole) == {"judge": 0.75}
    with pytest.raises(ConfigError, match="returned no score"):
        parts(JudgeReward(FixedJudge()), before(whole, 1), whole)


def test_a_weighted_sum_returns_its_weighted_parts():
    whole = conversation(("hi", ()), "Why?", ("ah", ("change_talk",)), end=LEFT)
    spec = {
        "issue_free": {"weight": 2.0, "categories": {WRAP_UP: 3.0}, "source": "judge"},
        "user_actions": 0.5,
        "judge": None,
    }
    reward = make_reward(spec, judge=FixedJudge((), (WRAP_UP,), (), score=0.25))
    assert parts(reward, before(whole, 1), whole) == {"issue_free": -6.0, "user_actions": 0.5, "judge": 0.25}


# ------------------------------------------------------------------------------ on the population


def test_on_the_population_step_rewards_sum_to_those_of_the_conversations_labels():
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


def test_realism_and_a_judge_reward_the_users_seat():
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


def test_every_problem_of_a_spec_is_reported_at_once():
    spec = {
        "issue_fre": 1.0,
        "issue_free": {"weight": "much", "categories": {"premature_wrapup": 1.0, WRAP_UP: -1.0}, "default": None},
        "user_actions": {"goood": 1.0, "source": "guess"},
        "judge": {},
    }
    with pytest.raises(ConfigError) as caught:
        make_reward(spec)
    lines = str(caught.value).splitlines()
    for message in (
        "rewards.issue_fre: no such reward; there are issue_free, judge, realism, user_actions",
        "rewards.issue_free.weight: expected a finite number, got 'much'",
        "rewards.issue_free.categories: no issue 'premature_wrapup'",
        "did you mean 'premature_wrap_up'?",
        f"rewards.issue_free.categories.{WRAP_UP}: expected a number of 0 or more, got -1.0",
        "rewards.issue_free.default: expected a number of 0 or more, got None",
        "rewards.user_actions: no option 'goood'; there are bad, good, source, taxonomy, weight; did you mean 'good'?",
        "rewards.judge: needs a judge, but none is served here",
    ):
        assert any(message in line for line in lines), message
    assert len(lines) == 7
    with pytest.raises(ConfigError, match="source: no source 'guess'; there are judge, user"):
        make_reward({"user_actions": {"source": "guess"}})
    with pytest.raises(ConfigError, match="source: 'judge' needs a judge, but none is served here"):
        make_reward({"issue_free": {"source": "judge"}})
    for nothing in ({}, [], "issue_free"):
        with pytest.raises(ConfigError, match="expected a mapping of name to settings"):
            make_reward(nothing)


def test_a_reward_for_the_wrong_seat_is_rejected_when_it_is_made_and_when_it_is_used():
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
    """A custom reward: minus the number of the agent's words above a limit."""

    def __init__(self, words: int) -> None:
        self.words = words

    async def __call__(self, before, after):
        text = after.turns[len(before.turns)].utterance.text
        return {"brevity": -float(max(0, len(text.split()) - self.words)), "messages": 1.0}


def brevity(words: int = 3):
    return Brevity(words)


sys.modules.setdefault("rewards_under_test", sys.modules[__name__])


def test_custom_rewards_are_found_by_registered_name_or_import_path():
    if "brevity" not in reward_names():
        register_reward("brevity")(brevity)
    whole = conversation("hi", "one two three four five", "ok")
    for name in ("brevity", "rewards_under_test:brevity"):
        found = parts(make_reward({name: {"weight": 2.0, "words": 4}}), before(whole, 1), whole)
        assert found == {f"{name}/brevity": -2.0, f"{name}/messages": 2.0}
    with pytest.raises(ConfigError, match="already registered"):
        register_reward("brevity")(lambda: Brevity(1))
    with pytest.raises(ConfigError, match="no callable at 'rewards_under_test:nothing'"):
        make_reward({"rewards_under_test:nothing": 1.0})


def test_rewards_can_be_pickled():
    spec = {"issue_free": {"source": "judge"}, "user_actions": 1.0, "judge": 2.0}
    reward = make_reward(spec, judge=ScriptedJudge(4))
    whole = conversation(("hi", ()), "Why?", ("ah", ("change_talk",)), end=LEFT)
    assert parts(pickle.loads(pickle.dumps(reward)), before(whole, 1), whole) == parts(reward, before(whole, 1), whole)
