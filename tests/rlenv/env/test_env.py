"""The Gymnasium env in both seats: the API contract, forks and snapshots, vector envs, and error messages."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
import time
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv

import rlenv  # noqa: F401  registers the ids
from rlenv.core.errors import ConfigError, EngineError
from rlenv.core.types import Message, Session, SessionContext
from rlenv.env.conversation import Limits
from rlenv.env.core import ConversationCore
from rlenv.env.gym import ConversationEnv
from rlenv.env.scenarios import Scenario
from rlenv.env.spaces import Messages, Utterances
from rlenv.speakers.scripted import Latency, ScriptedChatbot, ScriptedUser

IDS = ("rlenv/Conversation-v0", "rlenv/User-v0")
SEATS = ("chatbot", "user")
LINES = ("Hello.", "What happened?", "I see.", "And then?")


def scenarios() -> list[Scenario]:
    return [
        Scenario(context_id=f"c{i}", user_id=f"u{i}", context=SessionContext(), opener=("user", "assistant")[i % 2])
        for i in range(6)
    ]


def scripted(seat="chatbot", leave_rate=0.2, max_turns=6, **options) -> ConversationEnv:
    others = (
        {"user": ScriptedUser(leave_rate=leave_rate)} if seat == "chatbot" else {n: ScriptedChatbot(n) for n in "ab"}
    )
    return ConversationEnv(seat, scenarios(), others, Limits(max_turns=max_turns), **options)


def play(env, seed: int, steps: int = 30) -> list:
    """Returns what ``reset`` and every ``step`` of one episode returned."""
    obs, info = env.reset(seed=seed)
    record = [(obs, info)]
    for i in range(steps):
        if info["ended_by"]:
            break
        obs, reward, terminated, truncated, info = env.step(LINES[i % len(LINES)])
        record.append((obs, reward, terminated, truncated, info))
        if terminated or truncated:
            break
    return record


@pytest.mark.parametrize("id", IDS)
def test_registered_envs_pass_gymnasiums_checker(id):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make(id).unwrapped)


@pytest.mark.parametrize("seat", SEATS)
def test_the_env_class_passes_gymnasiums_checker(seat):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for env in (ConversationEnv(seat), scripted(seat)):
            check_env(env, skip_render_check=True)  # the render check needs a registered env


@pytest.mark.parametrize("id", IDS)
def test_equal_seeds_and_actions_give_equal_episodes_on_the_reference_population(id):
    one, two = gym.make(id), gym.make(id)
    for seed in (0, 7):
        assert play(one, seed) == play(two, seed)
    assert play(one, 1)[0] != play(one, 2)[0]
    one.reset(seed=3)
    two.reset(seed=3)
    assert one.reset() == two.reset() != one.reset()  # unseeded resets follow from the last seed


@pytest.mark.parametrize("seat", SEATS)
def test_terminated_means_that_a_speaker_ended_the_episode_and_truncated_that_a_cap_did(seat):
    ends = set()
    for seed in range(40):
        *_, last = play(scripted(seat), seed)
        if len(last) == 5:
            _, _, terminated, truncated, info = last
            assert terminated != truncated
            assert truncated == (info["ended_by"] == "limit")
            ends.add((info["ended_by"], info["end_reason"]))
    assert ("limit", "max_turns") in ends
    assert (("user", "end_of_session") in ends) == (seat == "chatbot")


def test_reset_reports_a_counterpart_that_leaves_at_once():
    env = scripted("chatbot", leave_rate=1.0)
    _, info = env.reset(seed=0, options={"context_id": "c0"})
    assert (info["ended_by"], info["num_user_turns"]) == ("user", 1)
    with pytest.raises(gym.error.ResetNeeded):
        env.step("Hello?")


def test_an_observation_is_the_whole_conversation_and_a_step_adds_both_messages():
    env = scripted("chatbot", leave_rate=0.0)
    obs, _ = env.reset(seed=0, options={"context_id": "c0"})
    assert [m.role for m in obs] == ["user"] and obs in env.observation_space
    longer, *_ = env.step("Why?")
    assert longer[: len(obs)] == obs
    assert [(m.role, m.content) for m in longer[1:2]] == [("assistant", "Why?")] and longer[2].role == "user"
    obs, _ = env.reset(seed=0, options={"context_id": "c1"})
    assert obs == ()  # the chatbot opens


def test_options_choose_context_and_counterpart_and_wrong_ones_are_reported():
    env = scripted("user")
    _, info = env.reset(seed=0, options={"context_id": "c3", "counterpart": "b"})
    assert (info["context_id"], info["counterpart"]) == ("c3", "b")
    for options, message in (
        ({"contextid": "c3"}, "no reset option 'contextid'.*did you mean 'context_id'"),
        ({"context_id": "c99"}, "no context 'c99'.*there are c0, c1, c2, c3, c4, c5"),
        ({"persona": "u33"}, "no persona 'u33'.*did you mean 'u3'"),
        ({"split": "train"}, "no split 'train'; there are none"),
        ({"context_id": "c1", "persona": "u2"}, "no scenario has context 'c1', persona 'u2'"),
        ({"counterpart": "z"}, "no counterpart 'z'; there are a, b"),
        ({"chatbot": "z"}, "no counterpart 'z'"),
        ({"chatbot": "a", "counterpart": "b"}, "'counterpart' and 'chatbot' mean the same"),
        ({"simulator": "a"}, "no reset option 'simulator'"),
        (
            {"context_id": 3, "counterpart": ["a"]},
            r"(?s)'context_id': expected a name \(str\), got int.*'counterpart': .* got list",
        ),
    ):
        with pytest.raises(gym.error.Error, match=message) as caught:
            env.reset(seed=0, options=options)
        assert isinstance(caught.value, ConfigError)
    _, info = env.reset(seed=0, options={"chatbot": "b", "context_id": None})
    assert info["counterpart"] == "b"
    _, info = scripted("chatbot").reset(seed=0, options={"simulator": "user"})
    assert info["counterpart"] == "user"


def of_users(**options) -> ConversationEnv:
    """An env with six contexts for each of two users; every third context is in the split "test"."""
    made = [
        Scenario(context_id=f"c{i}", user_id=f"u{i % 2}", context=SessionContext(), split=("train", "test")[i % 3 == 2])
        for i in range(12)
    ]
    return ConversationEnv("user", made, {"a": ScriptedChatbot("a")}, **options)


def test_persona_draws_among_one_users_contexts_and_split_among_one_part_of_the_data():
    env = of_users()

    def drawn(env=env, **options):
        return {env.reset(seed=seed, options=options)[1]["context_id"] for seed in range(200)}

    everything = {f"c{i}" for i in range(12)}
    test = {"c2", "c5", "c8", "c11"}
    assert drawn() == everything
    assert drawn(persona="u1") == {f"c{i}" for i in range(1, 12, 2)}
    assert drawn(split="test") == test
    assert drawn(split="test", persona="u1") == {"c5", "c11"}
    evaluation = of_users(split="test")
    assert drawn(evaluation) == test
    assert drawn(evaluation, split="train") == everything - test
    assert drawn(evaluation, context_id="c0") == {"c0"}  # a context requested by id need not be in the split
    with pytest.raises(gym.error.Error, match=r"no split 'tests'.*did you mean 'test'"):
        of_users(split="tests")


def test_on_the_population_the_persona_is_the_synthetic_user():
    env = gym.make(IDS[0], split="evaluation")
    persona = env.reset(seed=1)[1]["provenance"].user_id
    assert int(persona.rsplit("-", 1)[1]) % 5 == 4
    for seed in range(5):
        _, info = env.reset(seed=seed, options={"persona": persona})
        state = env.unwrapped.core.state
        assert info["provenance"].user_id == persona
        mind = state.user_memory or state.context.model_extra["population"]
        assert f"pop-{mind['seed']}-{mind['user']}" == persona
    with pytest.raises(gym.error.Error, match="no persona 'pop-0-999'"):
        env.reset(options={"persona": "pop-0-999"})


@pytest.mark.parametrize("made", ["class", *IDS])
def test_the_env_raises_the_documented_errors(made):
    env = scripted() if made == "class" else gym.make(made)
    with pytest.raises(gym.error.ResetNeeded):
        env.step("Hello")
    env.reset(seed=0)
    for bad in (3, None, b"Hello", ["Hello"]):
        with pytest.raises((gym.error.InvalidAction, AssertionError)):
            env.unwrapped.step(bad)
    with pytest.raises(gym.error.InvalidAction, match="100000 characters"):
        env.unwrapped.step("x" * 100_001)
    while not env.unwrapped.core.over:
        env.step("Go on.")
    with pytest.raises(gym.error.ResetNeeded):
        env.step("Hello")
    env.reset(seed=1)
    with pytest.raises(gym.error.Error, match="ansi"):
        ConversationEnv(render_mode="rgb_array")
    with pytest.raises(gym.error.Error, match=r"no seat 'users'.*did you mean 'user'"):
        ConversationEnv(seat="users")
    with pytest.raises(gym.error.Error, match="scenario"):
        ConversationEnv("user", [], {"a": ScriptedChatbot()})


def test_empty_and_unusual_texts_are_valid_messages():
    for text in ("", " ", "\x00", "a\ud83d", "😔" * 1000, "<|im_end|>"):
        env = scripted("chatbot", leave_rate=0.0)
        env.reset(seed=0)
        obs, *_ = env.step(text)
        assert text in [m.content for m in obs]
        json.dumps(env.snapshot())


def test_rendering_shows_the_transcript(capsys):
    env = scripted("chatbot", leave_rate=0.0, render_mode="ansi")
    env.reset(seed=0, options={"context_id": "c0"})
    env.step("Why?")
    assert [line.split(":")[0] for line in env.render().splitlines()] == ["user", "assistant", "user"]
    human = scripted("chatbot", leave_rate=0.0, render_mode="human")
    human.reset(seed=0, options={"context_id": "c0"})
    human.step("Why?")
    human.render()
    assert capsys.readouterr().out.splitlines() == env.render().splitlines()


# ----------------------------------------------------------------------------- snapshots and forks


@pytest.mark.parametrize("id", IDS)
def test_a_snapshot_survives_json_and_continues_as_the_original(id):
    for seed in (0, 1, 2):
        env, other = gym.make(id).unwrapped, gym.make(id).unwrapped
        env.reset(seed=seed)
        for line in LINES[:2]:
            if env.core.over:
                break
            env.step(line)
        snapshot = json.loads(json.dumps(env.snapshot()))
        assert other.restore(snapshot) == env.core.observe()
        assert other.snapshot() == env.snapshot()
        for line in LINES:
            if env.core.over:
                break
            assert env.step(line) == other.step(line)


def test_restoring_returns_to_the_point_of_the_snapshot():
    env = scripted("chatbot", leave_rate=0.0)
    env.reset(seed=5)
    snapshot = env.snapshot()
    once = env.step("Why?")
    env.step("And?")
    env.restore(snapshot)
    assert env.step("Why?") == once


def test_restoring_with_another_seed_continues_differently_from_the_same_past():
    env = scripted("chatbot", leave_rate=0.0)
    env.reset(seed=5)
    env.step("Why?")
    snapshot, past = env.snapshot(), env.core.observe()
    futures = set()
    for seed in range(20):
        env.restore(snapshot, seed)
        obs, *_ = env.step("And?")
        assert obs[: len(past)] == past
        futures.add(obs[-1].content)
    assert len(futures) > 3


def test_forks_continue_from_the_same_point_and_are_independent():
    async def scenario():
        core = ConversationCore(scenarios(), {"user": ScriptedUser(leave_rate=0.0)}, "chatbot")
        await core.reset(seed=1)
        await core.step("Why?")
        here = core.snapshot()
        same, twin, other = core.fork([None, None, 99])
        results = [(await fork.step("And?"))[0] for fork in (same, twin, other)]
        assert core.snapshot() == here
        own, *_ = await core.step("And?")
        assert results[0] == results[1] == own
        assert results[2][: len(own) - 1] == own[:-1]
        assert core.sibling().over

    asyncio.run(scenario())


@pytest.mark.parametrize("id", IDS)
def test_forked_envs_continue_equally_for_equal_seeds_and_independently(id):
    env = gym.make(id).unwrapped
    env.reset(seed=next(s for s in range(20) if not ended_at_reset(env, s)))
    env.step("That sounds hard. What happened next?")
    here = env.snapshot()
    one, two, same, other = env.fork(seeds=[5, 5, None, 6])
    line = "How long has this been going on?"
    steps = [fork.step(line) for fork in (one, two, same, other)]
    assert steps[0] == steps[1]
    assert env.snapshot() == here  # stepping forks leaves the original unchanged
    assert steps[2] == env.step(line)
    assert steps[0][-1]["provenance"].seeds == (here["state"]["seed"], 5)
    assert steps[2][-1]["provenance"].seeds == (here["state"]["seed"],)
    one.reset()
    assert two.core.state.turns[: len(here["state"]["turns"])] == same.core.state.turns[: len(here["state"]["turns"])]
    assert one.action_space is not two.action_space and one.np_random is not two.np_random


def ended_at_reset(env, seed: int) -> bool:
    return env.reset(seed=seed)[1]["ended_by"] is not None


def test_forking_n_times_gives_different_and_reproducible_continuations():
    env = scripted("chatbot", leave_rate=0.0)
    with pytest.raises(gym.error.ResetNeeded):
        env.fork(2)
    env.reset(seed=5)
    env.step("Why?")

    def answers():
        return [fork.step("And?")[0][-1].content for fork in env.fork(30)]

    assert answers() == answers() and len(set(answers())) > 3
    assert env.fork(0) == []
    for wrong in ({}, {"n": 2, "seeds": [1]}, {"n": -1}):
        with pytest.raises(gym.error.Error, match="fork: expected either n"):
            env.fork(**wrong)


@pytest.mark.parametrize("id", IDS)
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_a_copied_or_pickled_env_continues_as_the_original(id, copied):
    env = gym.make(id).unwrapped
    env.reset(seed=7)
    env.step("That sounds hard.")
    other = copied(env)
    assert other.step("What happened next?") == env.step("What happened next?")


def test_an_invalid_snapshot_is_rejected_without_quoting_it():
    env = scripted("chatbot", leave_rate=0.0)
    with pytest.raises(gym.error.ResetNeeded):
        env.snapshot()
    env.reset(seed=5, options={"context_id": "c0"})
    snapshot = env.snapshot()
    with pytest.raises(gym.error.Error, match="missing seeds, state"):
        env.restore({"counterpart": "user", "drawn": True})
    with pytest.raises(gym.error.Error, match=r"no counterpart 'uzer'.*did you mean 'user'"):
        env.restore({**snapshot, "counterpart": "uzer"})
    broken = json.loads(json.dumps(snapshot))
    broken["state"]["turns"][0]["utterance"]["text"] = ["a secret"]
    with pytest.raises(gym.error.Error, match=r"problems at turns\.0\.utterance\.text") as caught:
        env.restore(broken)
    assert "secret" not in str(caught.value)
    assert env.snapshot() == snapshot


# ------------------------------------------------------------------------------------ vector envs


def rollout(vector, seeds, steps=8):
    """Returns what a vector env's ``reset`` and steps return, as lists with one entry per env."""
    obs, infos = vector.reset(seed=seeds)
    record = [(list(obs), list(infos["context_id"]))]
    for i in range(steps):
        obs, rewards, terminated, truncated, _ = vector.step([LINES[i % len(LINES)]] * len(seeds))
        record.append((list(obs), list(rewards), list(terminated), list(truncated)))
    return record


def singles(make, seeds, steps=8):
    """Returns the same for single envs that are reset in the step after their end, as NEXT_STEP does."""
    envs = [make() for _ in seeds]
    first = [env.reset(seed=seed) for env, seed in zip(envs, seeds, strict=True)]
    record = [([obs for obs, _ in first], [info["context_id"] for _, info in first])]
    over = [False] * len(envs)
    for i in range(steps):
        rows = []
        for k, env in enumerate(envs):
            if over[k]:
                obs, _ = env.reset()
                rows.append((obs, 0.0, False, False))
            else:
                rows.append(env.step(LINES[i % len(LINES)])[:4])
            over[k] = rows[-1][2] or rows[-1][3]
        record.append(tuple(list(column) for column in zip(*rows, strict=True)))
    return record


def late_leaver() -> ConversationEnv:
    """An env whose user never leaves: every episode is as long as the cap, and none ends at its reset."""
    return scripted("chatbot", leave_rate=0.0, max_turns=4)


@pytest.mark.parametrize("kind", ["sync", pytest.param("async", marks=pytest.mark.slow)])
def test_gymnasiums_vector_envs_return_what_single_envs_return(kind):
    seeds = [3, 4, 5]
    makers = [late_leaver] * len(seeds)
    if kind == "sync":
        vector = SyncVectorEnv(makers, autoreset_mode=AutoresetMode.NEXT_STEP)
    else:
        vector = AsyncVectorEnv(makers, shared_memory=False, context="spawn", autoreset_mode=AutoresetMode.NEXT_STEP)
    try:
        expected = singles(late_leaver, seeds)
        for actual_step, expected_step in zip(rollout(vector, seeds), expected, strict=True):
            for one, two in zip(actual_step, expected_step, strict=True):
                assert [tuple(o) if isinstance(o, tuple | list) else o for o in one] == two
        assert any(any(row[3]) for row in expected[1:])
    finally:
        vector.close()


def test_registered_envs_can_be_vectorized():
    vector = gym.make_vec(IDS[0], num_envs=2, vectorization_mode="sync")
    obs, _ = vector.reset(seed=0)
    single, _ = gym.make(IDS[0]).reset(seed=0)
    assert tuple(obs[0]) == single
    _, rewards, *_ = vector.step(["Hello.", "Hello."])
    assert np.array_equal(rewards, [0.0, 0.0])
    vector.close()


# ------------------------------------------------------------------------------------------ others


def test_spaces_contain_messages_and_conversations_and_sample_by_seed():
    actions, observations = Utterances(seed=1), Messages(seed=1)
    assert "Hi there, naïve 😔\n" in actions and 3 not in actions and "x" * 100_001 not in actions
    assert (Message(role="user", content="x"),) in observations and () in observations
    assert ("x",) not in observations and [] not in observations
    for space, twin in ((actions, Utterances(seed=1)), (observations, Messages(seed=1))):
        drawn = [space.sample() for _ in range(20)]
        assert all(d in space for d in drawn) and drawn == [twin.sample() for _ in range(20)]
        assert space == type(space)() and space != gym.spaces.Discrete(2)
        with pytest.raises(ValueError, match="mask"):
            space.sample(mask=1)
    assert Utterances(5) != Utterances(6)


def test_a_scenario_opens_as_its_real_session_did_unless_an_opener_is_given():
    session = Session(session_id="s", user_id="u", messages=(Message(role="assistant", content="hi"),))
    assert Scenario.of_session(session).opener == "assistant"
    assert Scenario.of_session(session, "user").opener == "user"
    assert Scenario.of_session(Session(session_id="t")).opener == "user"


def test_an_env_without_scenarios_or_counterparts_is_rejected():
    with pytest.raises(ConfigError, match="scenario"):
        ConversationCore([], {"a": ScriptedChatbot()}, "user")
    with pytest.raises(ConfigError, match="6 context ids are used more than once, the first is 'c0'"):
        ConversationCore(scenarios() * 2, {"a": ScriptedChatbot()}, "user")
    with pytest.raises(ConfigError, match="at least one speaker"):
        ConversationCore(scenarios(), {}, "user")
    with pytest.raises(ConfigError, match="reset"):
        _ = ConversationCore(scenarios(), {"a": ScriptedChatbot()}, "user").state


class Hanging(ScriptedUser):
    """A user who stops replying after ``since`` messages."""

    def __init__(self, since: int) -> None:
        super().__init__(leave_rate=0.0)
        self.since = since

    async def reply(self, state, seed):
        if state.num_user_turns >= self.since:
            await asyncio.Event().wait()
        return await super().reply(state, seed)


@pytest.mark.parametrize("since", [0, 1, 2])
def test_the_wall_clock_cap_applies_while_a_reply_is_awaited(since):
    env = ConversationEnv("chatbot", scenarios(), {"user": Hanging(since)}, Limits(max_seconds=0.3))
    began = time.monotonic()
    obs, info = env.reset(seed=0, options={"context_id": "c0"})
    truncated = False
    for _ in range(since):
        assert info["ended_by"] is None
        obs, _, terminated, truncated, info = env.step("Hello?")
        assert not terminated
    assert 0.25 < time.monotonic() - began < 30
    assert (info["ended_by"], info["end_reason"], len(obs)) == ("limit", "max_seconds", 2 * since)
    assert truncated == (since > 0)
    with pytest.raises(gym.error.ResetNeeded):
        env.step("Hello?")


def test_a_slow_reply_within_the_wall_clock_cap_is_awaited():
    latency = Latency(median_s=0.02, straggler_rate=0.0)
    env = ConversationEnv(
        "chatbot", scenarios(), {"u": ScriptedUser(leave_rate=0.0, latency=latency)}, Limits(3, None, 60)
    )
    quick = ConversationEnv("chatbot", scenarios(), {"u": ScriptedUser(leave_rate=0.0)}, Limits(3))
    assert play(env, 3) == play(quick, 3)


def test_a_speakers_own_timeout_is_an_error_and_does_not_truncate():
    user = ScriptedUser(fails=lambda state: TimeoutError("mine") if state.turns else None)
    env = ConversationEnv("chatbot", scenarios(), {"u": user}, Limits(max_seconds=60))
    env.reset(seed=0, options={"context_id": "c1"})
    with pytest.raises(TimeoutError, match="mine"):
        env.step("Hello.")


def test_a_failed_step_leaves_the_conversation_unchanged_and_can_be_repeated():
    broken = [EngineError("gone"), None]
    user = ScriptedUser(leave_rate=0.0, fails=lambda state: broken.pop(0) if state.turns and broken else None)
    env = ConversationEnv("chatbot", scenarios(), {"user": user})
    env.reset(seed=0, options={"context_id": "c0"})
    before = env.snapshot()
    with pytest.raises(EngineError, match="gone"):
        env.step("Why?")
    assert env.snapshot() == before
    whole = scripted("chatbot", leave_rate=0.0)
    whole.reset(seed=0, options={"context_id": "c0"})
    assert env.step("Why?")[0] == whole.step("Why?")[0]
    never = ConversationEnv("chatbot", scenarios(), {"u": ScriptedUser(fails=lambda _: EngineError("gone"))})
    with pytest.raises(EngineError):
        never.reset(seed=0, options={"context_id": "c0"})
    with pytest.raises(gym.error.ResetNeeded):
        never.step("Hello?")


def test_a_token_cap_truncates_and_is_reported_in_the_info():
    class Wordy(ScriptedUser):
        async def reply(self, state, seed):
            reply = await super().reply(state, seed)
            return reply.model_copy(update={"token_ids": tuple(range(10)), "ends_session": False})

    env = ConversationEnv("chatbot", scenarios(), {"u": Wordy()}, Limits(max_tokens=20))
    env.reset(seed=0, options={"context_id": "c0"})
    *_, terminated, truncated, info = env.step("Hello.")
    assert (terminated, truncated, info["end_reason"]) == (False, True, "max_tokens")
    assert info["provenance"].end_reason == "max_tokens" and info["provenance"].num_tokens == 20


def test_a_wall_clock_cap_truncates():
    env = ConversationEnv("user", scenarios(), {"a": ScriptedChatbot()}, Limits(max_seconds=1e-9))
    env.reset(seed=0)
    if not env.core.over:
        *_, truncated, info = env.step("Hello")
        assert truncated
        assert info["end_reason"] == "max_seconds"
    assert env.core.state.end.reason == "max_seconds"
