"""Collecting episodes: equal results at any concurrency, and failures that are typed and counted; both seats."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import tracemalloc
import weakref
from collections import Counter

import pytest

from rlenv.core.errors import ConfigError, EngineError, OverlongError
from rlenv.core.log_odds import turn_rewards
from rlenv.core.types import SessionContext
from rlenv.env.collect import Collected, Episode, collect, in_order
from rlenv.env.conversation import Limits, to_session
from rlenv.env.core import ConversationCore
from rlenv.env.scenarios import Scenario
from rlenv.rewards.terms import RealismReward
from rlenv.speakers.scripted import Latency, ScriptedChatbot, ScriptedDiscriminator, ScriptedUser

SCENARIOS = [
    Scenario(context_id=f"c{i}", user_id=f"u{i}", context=SessionContext(), opener=("user", "assistant")[i % 2])
    for i in range(8)
]
EPISODES = [Episode(episode_id=f"e{i}", context_id=f"c{i % 8}", counterpart=f"bot{i % 3}", seed=i) for i in range(40)]
SLOW = Latency(median_s=0.001, straggler_rate=0.1)


def counterparts(latency=Latency(), **fails):
    return {f"bot{i}": ScriptedChatbot(f"bot{i}", latency, fails.get(f"bot{i}", lambda _: None)) for i in range(3)}


def core(speakers=None, seat="user", reward=None) -> ConversationCore:
    return ConversationCore(SCENARIOS, speakers or counterparts(), seat, Limits(max_turns=5), reward)


def gather(agent, base, episodes=EPISODES, **options) -> list[Collected]:
    return asyncio.run(in_order(collect(agent, base.sibling, episodes, **options), episodes))


def test_results_do_not_depend_on_concurrency_or_latency():
    expected = gather(ScriptedUser(), core(), concurrency=1)
    assert [r.episode for r in expected] == EPISODES and all(r.state.end for r in expected)
    assert len({r.state.model_dump_json() for r in expected}) == len(EPISODES)
    for concurrency in (2, 7, 256):
        assert gather(ScriptedUser(latency=SLOW), core(counterparts(SLOW)), concurrency=concurrency) == expected


def test_a_subset_of_episodes_gives_the_same_conversations():
    everything = gather(ScriptedUser(), core())
    assert gather(ScriptedUser(), core(), EPISODES[7:30:5]) == everything[7:30:5]


def test_no_more_conversations_run_at_once_than_allowed():
    running, most = 0, 0

    class Counting(ScriptedUser):
        async def reply(self, state, seed):
            nonlocal running, most
            running += 1
            most = max(most, running)
            await asyncio.sleep(0.001)
            running -= 1
            return await super().reply(state, seed)

    gather(Counting(), core(), concurrency=3)
    assert most == 3


def test_a_slow_reply_in_one_conversation_does_not_delay_the_others():
    class Stuck(ScriptedUser):
        def __init__(self):
            super().__init__()
            self.release = asyncio.Event()

        async def reply(self, state, seed):
            if state.context_id == "c0":
                await self.release.wait()
            return await super().reply(state, seed)

    async def collect_all():
        agent, done = Stuck(), []
        async for result in collect(agent, core().sibling, EPISODES):
            done.append(result.episode.episode_id)
            if len(done) == len(EPISODES) - 5:  # all except those of the stuck context
                agent.release.set()
        return done

    done = asyncio.run(collect_all())
    assert set(done[-5:]) == {f"e{i}" for i in range(0, 40, 8)} and len(done) == len(EPISODES)


def endless():
    """Returns an infinite generator of episodes, and a list with the number drawn so far."""
    drawn = [0]

    def generate():
        for i in itertools.count():
            drawn[0] += 1
            yield EPISODES[i % 40].model_copy(update={"episode_id": f"e{i}", "seed": i})

    return generate(), drawn


def test_episodes_are_read_lazily_from_an_infinite_generator():
    episodes, drawn = endless()

    async def take(number):
        taken = []
        async with contextlib.aclosing(collect(ScriptedUser(), core().sibling, episodes, concurrency=8)) as results:
            async for result in results:
                taken.append(result)
                await asyncio.sleep(0.002)  # a slow consumer
                assert drawn[0] <= len(taken) + 8
                if len(taken) == number:
                    return taken

    taken = asyncio.run(take(50))
    expected = {e.episode_id: r for e, r in zip(EPISODES, gather(ScriptedUser(), core()), strict=True)}
    same = [r for r in taken if r.episode.episode_id in expected]
    assert len(same) > 30 and all(r == expected[r.episode.episode_id] for r in same)


def test_a_consumer_that_stops_cancels_the_running_episodes():
    cancelled: list[str] = []

    class Noting(ScriptedUser):
        async def reply(self, state, seed):
            try:
                await asyncio.sleep(0 if state.context_id == "c0" else 3600)
            except asyncio.CancelledError:
                cancelled.append(state.context_id)
                raise
            return await super().reply(state, seed)

    async def take_one():
        async with contextlib.aclosing(collect(Noting(), core().sibling, EPISODES[:8])) as results:
            result = await anext(results)
        assert sorted(cancelled) == [f"c{i}" for i in range(1, 8)] and len(asyncio.all_tasks()) == 1
        return result

    assert asyncio.run(take_one()).episode.context_id == "c0"


@pytest.mark.slow
def test_two_thousand_concurrent_conversations_in_one_process_need_bounded_memory():
    num, alive, peaks, most = 2000, weakref.WeakSet(), [], 0

    class Gathering(ScriptedUser):
        """Replies only after every conversation has asked."""

        def __init__(self):
            super().__init__(leave_rate=0.0)
            self.asked, self.all_asked = 0, asyncio.Event()

        async def reply(self, state, seed):
            self.asked += 1
            if self.asked == num:
                self.all_asked.set()
            await self.all_asked.wait()
            return await super().reply(state, seed)

    base = ConversationCore(SCENARIOS, counterparts(), "user", Limits(max_turns=2))

    def make():
        one = base.sibling()
        alive.add(one)
        return one

    async def collect_all():
        nonlocal most
        episodes = (EPISODES[i % 40].model_copy(update={"seed": i}) for i in range(2 * num))
        finished = 0
        async for result in collect(Gathering(), make, episodes, concurrency=num):
            assert result.failure is None and len(result.rewards) == 2
            finished, most = finished + 1, max(most, len(alive))
            if finished % num == 0:
                peaks.append(tracemalloc.get_traced_memory()[1])
        assert finished == 2 * num

    tracemalloc.start()
    try:
        asyncio.run(collect_all())
    finally:
        tracemalloc.stop()
    assert most <= num + 1  # the running ones and the one that the consumer has
    assert peaks[1] < 1.2 * peaks[0] < 120e6  # the second 2,000 need no more memory than the first


def test_failures_are_recorded_with_kind_and_ids_and_the_others_continue():
    def dies(state):
        return EngineError("the engine died") if state.context_id == "c1" else None

    results = gather(ScriptedUser(fails=dies), core())
    failed = [r for r in results if r.failure]
    assert {r.episode.context_id for r in failed} == {"c1"} and len(failed) == 5
    for result in failed:
        assert (result.failure, result.reason, result.state, result.rewards) == ("engine", "the engine died", None, ())
    clean = gather(ScriptedUser(), core())
    assert [r for r in results if not r.failure] == [r for r in clean if r.episode.context_id != "c1"]


def test_an_engine_failure_is_retried_and_counted_and_changes_no_conversation():
    tries: Counter[str] = Counter()

    class Flaky(ScriptedUser):
        async def reply(self, state, seed):
            tries[f"{state.context_id}:{state.seed}"] += 1
            if tries[f"{state.context_id}:{state.seed}"] == 2:
                raise EngineError("gone for a moment")
            return await super().reply(state, seed)

    found, expected = gather(Flaky(), core()), gather(ScriptedUser(), core())
    assert [r.model_copy(update={"attempts": 1}) for r in found] == expected
    assert {r.attempts for r in found if len(r.rewards) > 1} == {2} and not any(r.failure for r in found)
    always = ScriptedUser(fails=lambda _: EngineError("x"))
    for attempts in (1, 2, 3):
        assert {(r.failure, r.attempts) for r in gather(always, core(), attempts=attempts)} == {("engine", attempts)}


@pytest.mark.parametrize("who", ["agent", "counterpart"])
def test_a_prompt_that_no_longer_fits_truncates_the_conversation_in_either_seat(who):
    def overlong(state):
        return OverlongError("too long") if len(state.turns) >= 4 else None

    agent = ScriptedUser(leave_rate=0.0, fails=overlong if who == "agent" else lambda _: None)
    bots = counterparts(**{f"bot{i}": overlong for i in range(3)}) if who == "counterpart" else counterparts()
    for result in gather(agent, core(bots)):
        assert result.failure is None
        assert (result.state.end.by, result.state.end.reason) == ("limit", "max_tokens")
        assert 4 <= len(result.state.turns) <= 5


def test_an_episode_with_an_unknown_name_fails_alone_as_data_and_is_not_retried():
    nowhere = EPISODES[3].model_copy(update={"context_id": "nowhere"})
    nobody = EPISODES[4].model_copy(update={"counterpart": "bot9"})
    results = gather(ScriptedUser(), core(), [*EPISODES[:3], nowhere, nobody])
    assert [r.failure for r in results] == [None, None, None, "data", "data"]
    assert "no context 'nowhere'" in results[3].reason and "no counterpart 'bot9'" in results[4].reason
    assert {r.attempts for r in results} == {1} and results[3].rewards == () and results[3].state is None


def test_a_reward_that_cannot_be_computed_fails_the_episode_and_is_not_0():
    class Full:
        async def log_odds(self, session, branches=()):
            raise OverlongError("the discriminator reads 10 tokens")

    results = gather(ScriptedUser(), core(reward=RealismReward(Full())))
    assert {(r.failure, r.attempts, r.rewards) for r in results} == {("overlong", 1, ())}


def test_a_bug_in_a_speaker_stops_the_collection():
    with pytest.raises(ZeroDivisionError):
        gather(ScriptedUser(fails=lambda _: ZeroDivisionError()), core())


@pytest.mark.parametrize("wrong", [{"concurrency": 0}, {"attempts": 0}])
def test_concurrency_and_attempts_below_one_are_rejected(wrong):
    with pytest.raises(ConfigError, match="expected 1 or more, got 0"):
        gather(ScriptedUser(), core(), **wrong)


def test_an_agent_that_never_replies_is_truncated_by_the_wall_clock_cap():
    class Silent(ScriptedUser):
        async def reply(self, state, seed):
            await asyncio.Event().wait()

    slow = ConversationCore(SCENARIOS, counterparts(), "user", Limits(max_seconds=0.2))
    for result in gather(Silent(), slow, EPISODES[:4]):
        assert (result.failure, result.state.end.reason, result.rewards) == (None, "max_seconds", ())


def test_rewards_in_the_users_seat_are_the_discriminators_and_telescope():
    judge = ScriptedDiscriminator(seed=5)
    for result in gather(ScriptedUser(), core(reward=RealismReward(judge))):
        session = to_session(result.state, session_id="x", source="t", chatbot="b")
        scores = asyncio.run(judge.log_odds(session)).log_odds
        assert list(result.rewards) == pytest.approx(turn_rewards(scores).tolist())
        assert sum(result.rewards) == pytest.approx(scores[-1] - scores[0])


def test_episodes_with_the_agent_in_the_chatbots_seat_are_collected_by_the_same_code():
    users = {"user": ScriptedUser(leave_rate=0.3)}
    episodes = [e.model_copy(update={"counterpart": "user"}) for e in EPISODES]
    results = gather(ScriptedChatbot(), core(users, "chatbot"), episodes)
    assert {r.state.end.by for r in results} == {"user", "limit"}
    for result in results:
        roles = [t.role for t in result.state.turns]
        assert all(a != b for a, b in itertools.pairwise(roles)) and roles[0] == result.state.opener
