"""Many conversations at once: equal results in any order, failures typed and counted, each seat a stand-in."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from rlenv.collect import Collected, Episode, collect
from rlenv.conversation import Limits, to_session
from rlenv.env import ConversationCore
from rlenv.env_rewards import RealismReward
from rlenv.errors import ConfigError, EngineError, OverlongError
from rlenv.rewards import turn_rewards
from rlenv.scenarios import Scenario
from rlenv.scripted import Latency, ScriptedChatbot, ScriptedDiscriminator, ScriptedUser
from rlenv.types import SessionContext

SCENARIOS = [
    Scenario(context_id=f"c{i}", user_id=f"u{i}", context=SessionContext(), opener=("user", "assistant")[i % 2])
    for i in range(8)
]
EPISODES = [Episode(episode_id=f"e{i}", context_id=f"c{i % 8}", world=f"bot{i % 3}", seed=i) for i in range(40)]
SLOW = Latency(median_s=0.001, straggler_rate=0.1)


def world(latency=Latency(), **fails):
    return {f"bot{i}": ScriptedChatbot(f"bot{i}", latency, fails.get(f"bot{i}", lambda _: None)) for i in range(3)}


def core(speakers=None, seat="user", reward=None) -> ConversationCore:
    return ConversationCore(SCENARIOS, speakers or world(), seat, Limits(max_turns=5), reward)


def gather(agent, base, episodes=EPISODES, **options) -> list[Collected]:
    return asyncio.run(collect(agent, base.sibling, episodes, **options))


def test_results_do_not_depend_on_concurrency_or_on_who_is_slow():
    expected = gather(ScriptedUser(), core(), concurrency=1)
    assert [r.episode for r in expected] == EPISODES and all(r.state.end for r in expected)
    assert len({r.state.model_dump_json() for r in expected}) == len(EPISODES)
    for concurrency in (2, 7, 256):
        assert gather(ScriptedUser(latency=SLOW), core(world(SLOW)), concurrency=concurrency) == expected


def test_a_subset_of_episodes_gives_the_same_conversations():
    everything = gather(ScriptedUser(), core())
    assert gather(ScriptedUser(), core(), EPISODES[7:30:5]) == everything[7:30:5]


def test_no_more_conversations_are_under_way_than_allowed():
    under_way, most = 0, 0

    class Counting(ScriptedUser):
        async def reply(self, state, seed):
            nonlocal under_way, most
            under_way += 1
            most = max(most, under_way)
            await asyncio.sleep(0.001)
            under_way -= 1
            return await super().reply(state, seed)

    gather(Counting(), core(), concurrency=3)
    assert most == 3


def test_a_long_reply_in_one_conversation_does_not_hold_up_the_others():
    release = asyncio.Event()
    done: list[str] = []

    class Stuck(ScriptedUser):
        async def reply(self, state, seed):
            if state.context_id == "c0":
                await release.wait()
            return await super().reply(state, seed)

    def on_done(result):
        done.append(result.episode.episode_id)
        if len(done) == len(EPISODES) - 5:  # all but those of the stuck context
            release.set()

    gather(Stuck(), core(), on_done=on_done)
    assert set(done[-5:]) == {f"e{i}" for i in range(0, 40, 8)} and len(done) == len(EPISODES)


def test_failures_have_their_kind_and_ids_and_the_others_go_on():
    def dies(state):
        return EngineError("the engine died") if state.context_id == "c1" else None

    results = gather(ScriptedUser(fails=dies), core())
    failed = [r for r in results if r.failure]
    assert {r.episode.context_id for r in failed} == {"c1"} and len(failed) == 5
    for result in failed:
        assert (result.failure, result.reason, result.state, result.rewards) == ("engine", "the engine died", None, ())
    clean = gather(ScriptedUser(), core())
    assert [r for r in results if not r.failure] == [r for r in clean if r.episode.context_id != "c1"]


def test_an_engine_failure_is_tried_again_and_leaves_no_trace():
    tries: dict[str, int] = {}

    class Flaky(ScriptedUser):
        async def reply(self, state, seed):
            key = f"{state.context_id}:{state.seed}"
            tries[key] = tries.get(key, 0) + 1
            if tries[key] == 2:
                raise EngineError("gone for a moment")
            return await super().reply(state, seed)

    assert gather(Flaky(), core()) == gather(ScriptedUser(), core())
    assert all(r.failure == "engine" for r in gather(Flaky(fails=lambda _: EngineError("x")), core(), attempts=1))


@pytest.mark.parametrize("who", ["agent", "world"])
def test_a_prompt_that_no_longer_fits_truncates_the_conversation_in_either_seat(who):
    def overlong(state):
        return OverlongError("too long") if len(state.turns) >= 4 else None

    agent = ScriptedUser(leave_rate=0.0, fails=overlong if who == "agent" else lambda _: None)
    bots = world(**{f"bot{i}": overlong for i in range(3)}) if who == "world" else world()
    for result in gather(agent, core(bots)):
        assert result.failure is None
        assert (result.state.end.by, result.state.end.reason) == ("limit", "max_tokens")
        assert 4 <= len(result.state.turns) <= 5


def test_what_a_person_must_mend_stops_the_collection():
    with pytest.raises(ConfigError, match="no context 'nowhere'"):
        gather(ScriptedUser(), core(), [EPISODES[0].model_copy(update={"context_id": "nowhere"})])
    with pytest.raises(ConfigError, match="nobody is called 'bot9'"):
        gather(ScriptedUser(), core(), [EPISODES[0].model_copy(update={"world": "bot9"})])


def test_rewards_of_the_users_seat_are_the_discriminators_and_telescope():
    judge = ScriptedDiscriminator(seed=5)
    for result in gather(ScriptedUser(), core(reward=RealismReward(judge))):
        session = to_session(result.state, session_id="x", source="t", chatbot="b")
        scores = asyncio.run(judge.log_odds(session)).log_odds
        assert list(result.rewards) == pytest.approx(turn_rewards(scores).tolist())
        assert sum(result.rewards) == pytest.approx(scores[-1] - scores[0])


def test_the_chatbots_seat_is_collected_by_the_same_code():
    users = {"user": ScriptedUser(leave_rate=0.3)}
    episodes = [e.model_copy(update={"world": "user"}) for e in EPISODES]
    results = gather(ScriptedChatbot(), core(users, "chatbot"), episodes)
    assert {r.state.end.by for r in results} == {"user", "limit"}
    for result in results:
        roles = [t.role for t in result.state.turns]
        assert all(a != b for a, b in itertools.pairwise(roles)) and roles[0] == result.state.opener
