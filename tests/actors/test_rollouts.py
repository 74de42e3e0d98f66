"""Rollout actors collect the same conversations as one process, even if one of them is killed midway."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
from dataclasses import replace

import pytest

from actors.rollouts import RolloutConfig, RolloutPool
from rlenv.core.errors import ConfigError, EngineError
from rlenv.core.types import SessionContext
from rlenv.env.collect import Collected, Episode, collect, in_order
from rlenv.env.conversation import Limits
from rlenv.env.core import ConversationCore
from rlenv.env.scenarios import Scenario
from rlenv.speakers.scripted import Latency, ScriptedChatbot, ScriptedUser

EPISODES = [Episode(episode_id=f"e{i}", context_id=f"c{i % 8}", counterpart="bot", seed=i) for i in range(30)]
SMALL = RolloutConfig(actors=2, num_cpus=0.5, concurrency=4)


def maker(median_s: float = 0.0):
    """A factory that a process without this module can call."""

    def make():
        scenarios = [Scenario(context_id=f"c{i}", user_id=f"u{i}", context=SessionContext()) for i in range(8)]
        latency = Latency(median_s=median_s, straggler_rate=0.1)
        core = ConversationCore(scenarios, {"bot": ScriptedChatbot("bot", latency)}, "user", Limits(max_turns=5))
        return ScriptedUser(latency=latency), core

    return make


def alone() -> list[Collected]:
    agent, core = maker()()
    return asyncio.run(in_order(collect(agent, core.sibling, EPISODES, concurrency=1), EPISODES))


def once(results) -> list[Collected]:
    return [r.model_copy(update={"attempts": 1}) for r in results]


@pytest.mark.ray
def test_several_actors_collect_what_one_process_collects_and_keep_to_their_concurrency(cluster):
    drawn = 0

    def endless():
        nonlocal drawn
        for i in itertools.count():
            drawn += 1
            yield EPISODES[i % 30].model_copy(update={"episode_id": f"e{i}"})

    async def first_forty(pool):
        taken = []
        async with contextlib.aclosing(pool.collect(endless())) as results:
            async for result in results:
                taken.append(result)
                await asyncio.sleep(0.01)
                assert drawn <= len(taken) + 8
                if len(taken) == 40:
                    return taken

    expected = alone()
    with RolloutPool(maker(0.001), SMALL) as pool:
        assert len(set(pool.pids)) == 2 and os.getpid() not in pool.pids
        assert asyncio.run(in_order(pool.collect(EPISODES), EPISODES)) == expected
        for result in asyncio.run(first_forty(pool)):
            known = expected[int(result.episode.episode_id[1:]) % 30]
            assert result.model_copy(update={"episode": known.episode}) == known
    with pytest.raises(EngineError, match=r"call start\(\) first"):
        asyncio.run(in_order(pool.collect(EPISODES), EPISODES))


@pytest.mark.ray
@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "silent"])
def test_a_killed_or_silent_actor_is_replaced_and_its_episodes_are_repeated_once_with_the_same_messages(cluster, fault):
    async def kill_one(pool):
        results = []
        async for result in pool.collect(EPISODES):
            if not results:
                os.kill(pool.pids[0], fault)
            results.append(result)
        return results

    with RolloutPool(maker(0.05), replace(SMALL, answer_timeout_s=10.0)) as pool:
        results = asyncio.run(kill_one(pool))
        assert pool.restarts == 1
    assert len(results) == len(EPISODES) and not any(r.failure for r in results)
    redone = [r for r in results if r.attempts == 2]
    assert 1 <= len(redone) <= SMALL.concurrency + 1 and {r.attempts for r in results} == {1, 2}
    assert sorted(once(results), key=lambda r: r.episode.seed) == alone()


@pytest.mark.ray
def test_an_episode_that_kills_its_actors_fails_as_engine_and_too_many_deaths_end_the_collection(cluster):
    def deadly():
        class Deadly(ScriptedUser):
            async def reply(self, state, seed):
                if state.context_id == "c3":
                    os.kill(os.getpid(), signal.SIGKILL)
                return await super().reply(state, seed)

        return Deadly(), maker()()[1]

    one = RolloutConfig(actors=1, num_cpus=0.5, concurrency=1)
    with RolloutPool(deadly, one) as pool:
        results = asyncio.run(in_order(pool.collect(EPISODES[:6]), EPISODES[:6]))
        assert [(r.failure, r.attempts) for r in results] == [(None, 1)] * 3 + [("engine", 2)] + [(None, 1)] * 2
        assert results[3].rewards == () and pool.restarts == 2
        with pytest.raises(EngineError, match="max_restarts = 4 is used up"):
            asyncio.run(in_order(pool.collect(EPISODES), EPISODES))


@pytest.mark.ray
def test_an_error_of_the_factory_is_raised_at_the_start(cluster):
    def refuses():
        raise ConfigError("no such model")

    with pytest.raises(ConfigError, match="no such model"):
        RolloutPool(refuses, SMALL).start()


def test_settings_without_actors_or_conversations_are_refused():
    for name in ("actors", "concurrency", "attempts", "threads"):
        with pytest.raises(ConfigError, match=f"RolloutConfig.{name}: expected above 0, got 0"):
            RolloutConfig(**{name: 0})
