"""A trajectory is what the engine saw and sampled, token by token, where encoding the text again would differ."""

from __future__ import annotations

import asyncio
import json

import pytest

from rlenv.core.errors import ConfigError
from rlenv.core.types import Adapter, ConversationState, End, Sampling, SessionContext, Turn, Utterance
from rlenv.env.collect import Collected, Episode, collect, in_order
from rlenv.env.conversation import Limits
from rlenv.env.core import ConversationCore
from rlenv.env.scenarios import Scenario
from rlenv.learning.trajectory import Trajectory, trajectories_of, trajectory_of
from rlenv.prompting.chat_format import ChatFormat, chat_format
from rlenv.rewards.registry import make_reward
from rlenv.rewards.terms import RealismReward
from rlenv.speakers.engine import EngineSpeaker
from rlenv.speakers.scripted import EngineScript, ScriptedChatbot, ScriptedDiscriminator, ScriptedEngine, ScriptedUser
from trainers.pretrain.loop import train_tokenizer

ADAPTER = Adapter(name="it1", path="/it1", digest="a" * 64)
SCENARIOS = [
    Scenario(
        context_id=f"c{i}",
        user_id=f"u{i}",
        context=SessionContext(profile="low"),
        opener=("user", "assistant")[i % 2],
    )
    for i in range(8)
]
SEATS = ("user", "chatbot")


class Recording(ScriptedEngine):
    """The scripted engine, which notes every prompt and what was sampled after it, by conversation.

    A user that it plays leaves without a word now and then: the end of the session is all that it samples.
    """

    def __init__(self, vocabulary, script) -> None:
        super().__init__(vocabulary, script)
        self.seen: dict[str, list[tuple[tuple[int, ...], tuple[int, ...]]]] = {}

    async def generate(self, token_ids, sampling, adapter=None, conversation=None):
        reply = await super().generate(token_ids, sampling, adapter, conversation)
        if conversation.startswith("user") and sampling.seed % 6 == 0:
            reply = reply.model_copy(update={"token_ids": sampling.stop_token_ids[-1:], "logprobs": (-1.5,)})
        self.seen.setdefault(conversation, []).append((tuple(token_ids), reply.token_ids))
        return reply


@pytest.fixture(scope="module")
def chat() -> ChatFormat:
    return chat_format(train_tokenizer(["I sleep badly and it is work, I think. user assistant system"] * 3, 400, 2048))


def speaker(chat: ChatFormat, seat="user", end_rate=0.15, mean_tokens=6) -> EngineSpeaker:
    plain = [i for i in range(len(chat.tokenizer)) if i not in chat.tokenizer.all_special_ids]
    engine = Recording(plain, EngineScript(mean_tokens=mean_tokens, end_rate=end_rate))
    return EngineSpeaker("it1", engine, chat, seat, lambda c: f"You are {c.profile}.", Sampling(max_tokens=9), ADAPTER)


def collected(agent: EngineSpeaker, count=24) -> list[Collected]:
    if agent.seat == "user":
        counterparts, reward = {"w": ScriptedChatbot()}, RealismReward(ScriptedDiscriminator())
    else:
        counterparts, reward = {"w": ScriptedUser(leave_rate=0.2)}, make_reward({"issue_free": 1.0})
    core = ConversationCore(SCENARIOS, counterparts, agent.seat, Limits(max_turns=5), reward)
    episodes = [Episode(episode_id=f"e{i}", context_id=f"c{i % 8}", counterpart="w", seed=i) for i in range(count)]
    return asyncio.run(in_order(collect(agent, core.sibling, episodes), episodes))


def own_messages(result: Collected, seat: str) -> list[Utterance]:
    role = {"user": "user", "chatbot": "assistant"}[seat]
    messages = [t.utterance for t in result.state.turns if t.role == role]
    return [*messages, result.state.end.said] if result.state.end.said and result.state.end.by == seat else messages


@pytest.mark.parametrize("seat", SEATS)
def test_prompt_and_completion_up_to_a_message_are_what_the_engine_saw_there_and_sampled(chat, seat):
    agent = speaker(chat, seat)
    results = {r.episode.episode_id: r for r in collected(agent)}
    assert any(r.state.end.said for r in results.values()) == (seat == "user")  # some leave without a word
    cut = kept = dropped = 0
    trajectories = trajectories_of(results.values(), agent)
    assert trajectories
    for trajectory in trajectories:
        episode = results[trajectory.episode_id].episode
        seen = agent.engine.seen[f"{seat}:{episode.context_id}:{episode.seed}"]
        stream = trajectory.prompt_ids + trajectory.completion_ids
        assert trajectory.prompt_ids == seen[0][0]
        for number, (prompt, sampled) in enumerate(seen, 1):
            last = number == len(seen)
            foreign = seat == "chatbot" and sampled[-1] == chat.end_of_session and not last
            expected = sampled[:-1] if foreign else sampled  # the next prompt has no end of session in it
            assert stream[: len(prompt) + len(expected)] == prompt + expected
            cut += sampled[-1] not in chat.stop_token_ids
            dropped += foreign
            kept += not foreign
        assert stream == seen[-1][0] + seen[-1][1]
    assert kept > 20 and cut > 3
    assert bool(dropped) == (seat == "chatbot")


@pytest.mark.parametrize("seat", SEATS)
def test_mask_log_probs_and_turns_are_aligned_with_the_tokens_and_rewards_with_the_messages(chat, seat):
    agent = speaker(chat, seat)
    results = [r for r in collected(agent) if r.rewards]
    for result, trajectory in zip(results, trajectories_of(results, agent), strict=True):
        size = len(trajectory.completion_ids)
        assert len(trajectory.action_mask) == len(trajectory.logprobs) == len(trajectory.turn_of_token) == size
        assert trajectory.action_mask == tuple(int(n > 0) for n in trajectory.turn_of_token)
        assert trajectory.action_mask[0] == trajectory.action_mask[-1] == 1
        messages = own_messages(result, seat)
        assert len(trajectory.rewards) == len(trajectory.reward_parts) == len(messages) == max(trajectory.turn_of_token)
        for number, utterance in enumerate(messages, 1):
            places = [i for i, n in enumerate(trajectory.turn_of_token) if n == number]
            assert places == list(range(places[0], places[-1] + 1))
            own = tuple(trajectory.completion_ids[i] for i in places)
            assert own == utterance.token_ids[: len(own)] and len(utterance.token_ids) - len(own) <= 1
            assert tuple(trajectory.logprobs[i] for i in places) == utterance.logprobs[: len(own)]
        assert all(p == 0.0 for p, m in zip(trajectory.logprobs, trajectory.action_mask, strict=True) if not m)
        assert all(p < 0.0 for p, m in zip(trajectory.logprobs, trajectory.action_mask, strict=True) if m)
        assert trajectory.rewards == result.rewards
        assert [sum(p.values()) for p in trajectory.reward_parts] == pytest.approx(list(result.rewards))
        assert trajectory.adapter == ADAPTER and trajectory.provenance == result.provenance
        assert (trajectory.terminated, trajectory.truncated) == (
            result.state.end.by != "limit", result.state.end.by == "limit"
        )  # fmt: skip
        assert Trajectory.model_validate(json.loads(trajectory.model_dump_json())) == trajectory


def ended(*turns: Turn, by="limit", reason="max_turns") -> ConversationState:
    return ConversationState(
        context_id="c", context=SessionContext(), opener=turns[0].role, seed=0, turns=turns,
        end=End(by=by, reason=reason),
    )  # fmt: skip


def sampled(ids, logprob=-0.5, adapter=ADAPTER, text=None, chat=None) -> Utterance:
    text = text if text is not None else chat.read_reply(ids)[0]
    return Utterance(text=text, token_ids=tuple(ids), logprobs=(logprob,) * len(ids), adapter=adapter)


def test_a_split_that_the_tokenizer_would_not_make_is_kept_as_it_was_sampled(chat):
    split = (*chat.encode("sl"), *chat.encode("eep"), chat.end_of_turn)
    again = (*chat.encode("sleep"), chat.end_of_turn)
    utterance = sampled(split, chat=chat)
    assert utterance.text == "sleep" and split != again and len(split) > len(again)
    state = ended(
        Turn(role="user", utterance=utterance),
        Turn(role="assistant", utterance=Utterance(text="Why?")),
        Turn(role="user", utterance=utterance),
    )
    trajectory = trajectory_of(state, [1.0, 2.0], seat="user", chat=chat, system="s")
    between = (*chat.own.after[1:], *chat.other.before, *chat.encode("Why?"), *chat.other.after, *chat.own.before)
    assert trajectory.completion_ids == (*split, *between, *split)
    assert trajectory.action_mask == (1,) * len(split) + (0,) * len(between) + (1,) * len(split)
    retokenised = state.model_copy(
        update={
            "turns": tuple(
                t.model_copy(update={"utterance": sampled(again, chat=chat)}) if t.role == "user" else t
                for t in state.turns
            )
        }
    )
    other = trajectory_of(retokenised, [1.0, 2.0], seat="user", chat=chat, system="s")
    text = chat.tokenizer.decode
    assert other.completion_ids != trajectory.completion_ids
    assert text(other.completion_ids) == text(trajectory.completion_ids)


def test_ending_the_session_without_a_message_counts_as_a_message(chat):
    say = sampled((*chat.encode("hm"), chat.end_of_turn), chat=chat)
    leave = sampled((chat.end_of_session,), logprob=-2.0, text="")
    state = ended(Turn(role="user", utterance=say), Turn(role="assistant", utterance=Utterance(text="Why?")))
    state = state.model_copy(update={"end": End(by="user", reason="end_of_session", said=leave)})
    trajectory = trajectory_of(state, [0.5, 0.0], seat="user", chat=chat, system="s")
    assert trajectory.completion_ids[-1] == chat.end_of_session and trajectory.logprobs[-1] == -2.0
    assert trajectory.turn_of_token[-1] == 2 and trajectory.terminated
    assert trajectory.completion_ids[-1 - len(chat.own.before) : -1] == chat.own.before


def test_an_episode_without_an_own_message_has_a_prompt_and_nothing_to_learn(chat):
    state = ended(Turn(role="user", utterance=Utterance(text="bye")), by="user", reason="end_of_session")
    trajectory = trajectory_of(state, [], seat="chatbot", chat=chat, system="s")
    assert trajectory.prompt_ids == tuple(chat.prompt("s", state.turns, "chatbot"))
    assert trajectory.completion_ids == trajectory.action_mask == trajectory.logprobs == trajectory.rewards == ()
    result = Collected(episode=Episode(episode_id="e", context_id="c", counterpart="w", seed=0), state=state)
    failed = Collected(episode=result.episode, failure="engine", reason="x")
    assert trajectories_of([result, failed], speaker(chat, "chatbot")) == []


def test_every_reason_why_an_episode_has_no_trajectory_is_reported_with_ids(chat):
    other = ADAPTER.model_copy(update={"digest": "b" * 64})
    good = sampled((*chat.encode("hm"), chat.end_of_turn), chat=chat)
    wrong = [
        Utterance(text="typed by hand"),
        good.model_copy(update={"logprobs": (-1.0,)}),
        good.model_copy(update={"adapter": other}),
    ]
    turns = [t for u in wrong for t in (Turn(role="user", utterance=u), Turn(role="assistant", utterance=good))]
    with pytest.raises(ConfigError) as caught:
        trajectory_of(ended(*turns).model_copy(update={"end": None}), [1.0], seat="user", chat=chat, system="s")
    assert [line.removeprefix("conversation c: ").split(";")[0] for line in str(caught.value).splitlines()] == [
        "the conversation has not ended",
        "the user's message 1 has no sampled tokens",
        f"the user's message 2 has 1 log-probs for {len(good.token_ids)} tokens",
        "the user's messages come from 3 adapter versions",
        "3 messages of the user and 1 rewards",
    ]


def test_trajectories_against_different_simulators_are_not_pooled_unless_asked(chat):
    agent = speaker(chat, "chatbot")
    first = collected(agent, 6)
    other = [
        r.model_copy(
            update={
                "provenance": r.provenance.model_copy(
                    update={"simulator": r.provenance.simulator.model_copy(update={"version": "another"})}
                )
            }
        )
        for r in first
    ]
    with pytest.raises(ConfigError, match="2 different simulators"):
        trajectories_of([*first, *other], agent)
    both = trajectories_of([*first, *other], agent, allow_mixed=True)
    assert len(both) == 2 * len(trajectories_of(first, agent))
