"""The vector env equals Gymnasium's over single envs in every autoreset mode, and asks counterparts concurrently."""

from __future__ import annotations

import asyncio

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics

import rlenv  # noqa: F401  registers the ids
from rlenv.core.errors import EngineError
from rlenv.core.types import SessionContext
from rlenv.env.conversation import Limits
from rlenv.env.gym import ConversationEnv, EnvError
from rlenv.env.scenarios import Scenario
from rlenv.env.vector import ConversationVectorEnv
from rlenv.speakers.scripted import ScriptedChatbot, ScriptedUser

IDS = ("rlenv/Conversation-v0", "rlenv/User-v0")
LINES = ("Hello.", "What happened?", "I see.", "And then?")
NUM = 4


def settings(seat="chatbot", user=None, opener="assistant", max_turns=4) -> dict:
    """Settings under which no episode ends at its reset, unless ``opener`` and ``user`` cause it."""
    made = [
        Scenario(context_id=f"c{i}", user_id=f"u{i}", context=SessionContext(profile=str(i)), opener=opener)
        for i in range(6)
    ]
    others = {"user": user or ScriptedUser(leave_rate=0.2)} if seat == "chatbot" else {"bot": ScriptedChatbot("bot")}
    return {"seat": seat, "scenarios": made, "counterparts": others, "limits": Limits(max_turns=max_turns)}


def single() -> ConversationEnv:
    return ConversationEnv(**settings())


def same(one, two) -> bool:
    """Returns whether two results of a vector env are equal, to the dtype."""
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    if isinstance(one, np.ndarray):
        return one.dtype == two.dtype and one.shape == two.shape and list(one) == list(two)
    return type(one) is type(two) and one == two


def play(vector, seed, steps=14) -> list:
    """Returns everything that a vector env returns; with DISABLED, ended episodes are reset by the caller."""
    record = [vector.reset(seed=seed)]
    for i in range(steps):
        record.append(vector.step(tuple(LINES[(i + k) % len(LINES)] for k in range(vector.num_envs))))
        ended = record[-1][2] | record[-1][3]
        if ended.any() and vector.metadata["autoreset_mode"] == AutoresetMode.DISABLED:
            record.append(vector.reset(options={"reset_mask": ended}))
    return record


@pytest.mark.parametrize("kind", ["sync", pytest.param("async", marks=pytest.mark.slow)])
@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_every_autoreset_mode_equals_gymnasiums_including_infos(mode, kind):
    vector = ConversationVectorEnv(NUM, mode, **settings())
    if kind == "sync":
        reference = SyncVectorEnv([single] * NUM, autoreset_mode=mode)
    else:
        reference = AsyncVectorEnv([single] * NUM, shared_memory=False, context="spawn", autoreset_mode=mode)
    try:
        assert vector.metadata["autoreset_mode"] is mode
        for seed in (3, [5, None, 7, 5]) if kind == "sync" else (3,):
            if isinstance(seed, list):  # the env without a seed continues with its generator, seeded with 3 before
                assert vector.np_random_seed == reference.np_random_seed
            record = play(vector, seed)
            for step, (actual, other) in enumerate(zip(record, play(reference, seed), strict=True)):
                assert all(same(a, b) for a, b in zip(actual, other, strict=True)), (step, actual, other)
                assert actual[0] in vector.observation_space
        infos = [result[-1] for result in record]
        assert any("final_obs" in info for info in infos) == (mode == AutoresetMode.SAME_STEP)
        assert {by for info in infos for by in info["ended_by"]} >= (
            {None} if mode == AutoresetMode.SAME_STEP else {"user"}
        )
    finally:
        reference.close()


@pytest.mark.parametrize("id", IDS)
def test_make_vec_returns_it_and_it_equals_gymnasiums_on_the_reference_population(id):
    vector, reference = gym.make_vec(id, num_envs=NUM), gym.make_vec(id, num_envs=NUM, vectorization_mode="sync")
    assert isinstance(vector.unwrapped, ConversationVectorEnv) and not isinstance(reference, ConversationVectorEnv)
    assert vector.metadata["autoreset_mode"] is AutoresetMode.NEXT_STEP
    for name in ("observation_space", "action_space", "single_observation_space", "single_action_space"):
        assert getattr(vector, name) == getattr(reference, name)
    seed = next(s for s in range(0, 100, NUM) if not any(vector.reset(seed=s)[1]["ended_by"]))
    for actual, other in zip(play(vector, seed, 3), play(reference, seed, 3), strict=True):
        assert all(same(a, b) for a, b in zip(actual, other, strict=True))
    assert vector.action_space.contains(vector.action_space.sample())
    modes = [
        gym.make_vec(id, num_envs=2, autoreset_mode=mode).metadata["autoreset_mode"]
        for mode in ("SameStep", "Disabled")
    ]
    assert modes == [AutoresetMode.SAME_STEP, AutoresetMode.DISABLED]


def test_it_works_in_gymnasiums_vector_wrappers():
    vector = RecordEpisodeStatistics(gym.make_vec(IDS[0], num_envs=NUM, **settings(max_turns=2)))
    lengths = [n for result in play(vector, 3)[1:] if "episode" in result[-1] for n in result[-1]["episode"]["l"] if n]
    assert lengths and max(lengths) == 2
    vector.close()


def test_the_counterparts_reply_concurrently():
    class Meeting(ScriptedUser):
        """Replies only after every conversation has asked."""

        def __init__(self):
            super().__init__(leave_rate=0.0)
            self.asked, self.all_asked = 0, asyncio.Event()

        async def reply(self, state, seed):
            self.asked += 1
            if self.asked == NUM:
                self.all_asked.set()
            async with asyncio.timeout(60):
                await self.all_asked.wait()
            return await super().reply(state, seed)

    vector = ConversationVectorEnv(NUM, **settings(user=Meeting()))
    vector.reset(seed=0)
    observations, *_ = vector.step(LINES)
    assert [len(o) for o in observations] == [2] * NUM


def test_a_step_that_fails_in_one_conversation_changes_none_and_can_be_repeated():
    broken = {"c1": 3, "c4": 3}  # context to the number of failures left in its user's next reply

    def fails(state):
        if state.num_user_turns == 2 and broken.get(state.context_id, 0):
            broken[state.context_id] -= 1
            return EngineError("gone")
        return None

    for mode in (AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP):
        broken.update(c1=3, c4=3)
        vector = ConversationVectorEnv(6, mode, **settings(user=ScriptedUser(leave_rate=0.1, fails=fails)))
        reference = ConversationVectorEnv(6, mode, **settings(user=ScriptedUser(leave_rate=0.1)))
        assert same(vector.reset(seed=0)[1], reference.reset(seed=0)[1])
        failed = 0
        for i in range(20):
            expected = reference.step([LINES[i % 4]] * 6)
            while True:
                before = [env.snapshot() for env in vector.envs]
                try:
                    actual = vector.step([LINES[i % 4]] * 6)
                    break
                except EngineError:
                    failed += 1
                    assert [env.snapshot() for env in vector.envs] == before
            assert all(same(a, b) for a, b in zip(actual, expected, strict=True)), i
        assert failed >= 3


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_an_episode_that_ended_at_its_reset_is_reset_by_the_next_step(mode):
    leaving = settings(user=ScriptedUser(leave_rate=0.5), opener="user")
    vector = ConversationVectorEnv(NUM, mode, **leaving)
    seed = next(s for s in range(100) if any(vector.reset(seed=s)[1]["ended_by"]))
    _, infos = vector.reset(seed=seed)
    over = np.array([by is not None for by in infos["ended_by"]])
    if mode == AutoresetMode.DISABLED:
        with pytest.raises(gym.error.ResetNeeded):
            vector.step(LINES)
        _, again = vector.reset(options={"reset_mask": over})
        assert list(again["_seed"]) == list(over)
        return
    _, rewards, terminated, truncated, after = vector.step(LINES)
    assert not (rewards[over].any() or terminated[over].any() or truncated[over].any())
    assert (after["seed"][over] != infos["seed"][over]).all()
    if mode == AutoresetMode.NEXT_STEP:
        assert (after["seed"][~over] == infos["seed"][~over]).all()
    for _ in range(10):
        vector.step(LINES)


def test_invalid_calls_are_reported_and_change_no_conversation():
    vector = ConversationVectorEnv(NUM, **settings())
    with pytest.raises(gym.error.ResetNeeded):
        vector.step(LINES)
    vector.reset(seed=0)
    before = [env.snapshot() for env in vector.envs]
    for actions, message in (
        (LINES[:3], "each of 4 envs, got 3"),
        ([*LINES[:3], 3], "got int"),
        ([*LINES[:3], "x" * 100_001], "100000"),
    ):
        with pytest.raises(gym.error.InvalidAction, match=message):
            vector.step(actions)
    for mask in ([True] * NUM, np.ones(NUM), np.ones(3, bool), np.zeros(NUM, bool)):
        with pytest.raises(gym.error.Error, match="reset_mask"):
            vector.reset(options={"reset_mask": mask})
    with pytest.raises(gym.error.Error, match="one for each of 4 envs, got 2"):
        vector.reset(seed=[1, 2])
    with pytest.raises(gym.error.Error, match="no context 'nowhere'"):
        vector.reset(options={"context_id": "nowhere"})
    assert [env.snapshot() for env in vector.envs] == before
    with pytest.raises(gym.error.Error, match=r"no autoreset_mode 'samestep'.*SameStep"):
        ConversationVectorEnv(NUM, "samestep", **settings())
    with pytest.raises(gym.error.Error, match="num_envs: expected 1 or more, got 0"):
        ConversationVectorEnv(0, **settings())


@pytest.mark.parametrize(
    "options",
    [{"persona": "nobody"}, {"context_id": "nothing"}, {"split": "none"}, {"world": "none"}, {"user": "none"}],
)
def test_what_is_wrong_with_the_first_reset_is_told_as_by_the_single_env(options):
    with pytest.raises(EnvError) as single_error:
        single().reset(seed=1, options=options)
    vector = ConversationVectorEnv(NUM, **settings())
    with pytest.raises(EnvError) as error:
        vector.reset(seed=1, options=options)
    assert str(error.value) == str(single_error.value)
    # and the env is as before: it draws as a new one
    again, fresh = (v.reset(seed=1) for v in (vector, ConversationVectorEnv(NUM, **settings())))
    assert again[0] == fresh[0] and list(again[1]["context_id"]) == list(fresh[1]["context_id"])


def test_an_engine_that_fails_in_the_first_reset_is_told():
    class Dead(ScriptedUser):
        async def reply(self, state, seed):
            raise EngineError("the engine died")

    vector = ConversationVectorEnv(NUM, **settings(user=Dead(), opener="user"))
    with pytest.raises(EngineError, match="the engine died"):
        vector.reset(seed=1)


@pytest.mark.parametrize("mode", AutoresetMode)
def test_max_episode_steps_truncates_as_gymnasiums_own_wrapper_does(mode):
    def limited():
        return gym.wrappers.TimeLimit(single(), 3)

    ours = ConversationVectorEnv(NUM, mode, max_episode_steps=3, **settings())
    theirs = SyncVectorEnv([limited] * NUM, autoreset_mode=mode)
    for vector in (ours, theirs):
        vector.reset(seed=3)
    for _ in range(3 if mode == AutoresetMode.DISABLED else 9):
        results = [vector.step(["What happened?"] * NUM)[:4] for vector in (ours, theirs)]
        assert all(same(one, two) for one, two in zip(*results, strict=True))
        if mode == AutoresetMode.DISABLED and results[0][2].any():
            break


def test_make_vec_takes_max_episode_steps_and_names_settings_that_are_unknown():
    envs = gym.make_vec(IDS[0], num_envs=2, max_episode_steps=1, counterparts=settings()["counterparts"])
    envs.reset(seed=1)
    assert envs.step(["Hello."] * 2)[3].all()
    for wrong, said in (({"max_episode_steps": 0}, "1 or more, got 0"), ({"limit": 3}, "did you mean 'limits'")):
        with pytest.raises(EnvError, match=said):
            gym.make_vec(IDS[0], num_envs=2, **wrong)
