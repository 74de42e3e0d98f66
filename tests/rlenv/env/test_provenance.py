"""Provenance: every speaker describes itself, every result has the descriptions, and simulators are not mixed."""

from __future__ import annotations

import asyncio
import json

import pytest

from rlenv.core.errors import ConfigError
from rlenv.core.types import Adapter, Sampling, SessionContext
from rlenv.env.collect import Collected, Episode, collect, in_order
from rlenv.env.conversation import Limits
from rlenv.env.core import ConversationCore
from rlenv.env.ensemble import Ensemble
from rlenv.env.provenance import Provenance, SpeakerCard, check_poolable, context_digest, describe, rlenv_version
from rlenv.env.scenarios import Scenario
from rlenv.population.chatbots.scripted import make_chatbot
from rlenv.population.users.user import PopulationUser
from rlenv.prompting.chat_format import chat_format
from rlenv.speakers.endpoint import CallableSpeaker, EndpointSpeaker
from rlenv.speakers.engine import EngineSpeaker
from rlenv.speakers.scripted import EngineScript, ScriptedChatbot, ScriptedEngine, ScriptedUser
from trainers.pretrain.loop import train_tokenizer

ADAPTERS = {name: Adapter(name=name, path=f"/{name}", digest=name * 16) for name in ("it1", "it2")}
SCENARIOS = [
    Scenario(context_id=f"c{i}", user_id=f"u{i % 2}", context=SessionContext(profile=f"p{i}")) for i in range(4)
]


@pytest.fixture(scope="module")
def chat():
    return chat_format(train_tokenizer(["I sleep badly and it is work, I think. user assistant system"] * 3, 400, 2048))


def simulator(chat, adapter: Adapter | None, seat="user") -> EngineSpeaker:
    plain = [i for i in range(len(chat.tokenizer)) if i not in chat.tokenizer.all_special_ids]
    engine = ScriptedEngine(plain, EngineScript(mean_tokens=4, end_rate=0.2))
    name = adapter.name if adapter else "zero-shot"
    return EngineSpeaker(name, engine, chat, seat, lambda c: "Speak.", Sampling(max_tokens=8, temperature=0.7), adapter)


def collected(agent, counterparts, seat, pin: str | None = None) -> list[Collected]:
    core = ConversationCore(SCENARIOS, counterparts, seat, Limits(max_turns=3))
    names = list(counterparts)
    episodes = [
        Episode(episode_id=f"e{i}", context_id=f"c{i % 4}", counterpart=pin or names[i % len(names)], seed=i)
        for i in range(6)
    ]
    return asyncio.run(in_order(collect(agent, core.sibling, episodes), episodes))


def test_every_speaker_describes_itself(chat):
    sampling = Sampling(temperature=0.3)
    it1 = describe(simulator(chat, ADAPTERS["it1"]))
    assert (it1.name, it1.kind, it1.version, it1.adapter_digest) == ("it1", "engine", "it1", "it1" * 16)
    assert it1.sampling.temperature == 0.7 and it1.sampling.seed is None
    assert describe(simulator(chat, None)).adapter_digest is None
    endpoint = EndpointSpeaker("gpt", "chatbot", "http://x/v1", "model-4", "KEY", lambda c: "", sampling)
    assert describe(endpoint) == SpeakerCard(name="gpt", kind="endpoint", model="model-4", sampling=sampling)
    assert describe(CallableSpeaker("f", "chatbot", asyncio.sleep, lambda c: "")).version == "asyncio.tasks:sleep"
    for kind, speaker in (("population", PopulationUser()), ("scripted", ScriptedUser())):
        assert describe(speaker) == SpeakerCard(name=speaker.name, kind=kind, version=rlenv_version())

    class Silent:
        name = "silent"

    assert describe(Silent()) == SpeakerCard(name="silent")


def test_provenance_in_either_seat_has_simulator_chatbot_context_seeds_and_end(chat):
    bots = {"a": ScriptedChatbot("a")}
    for result in collected(simulator(chat, ADAPTERS["it1"]), bots, "user"):
        provenance, state = result.provenance, result.state
        assert (provenance.simulator.version, provenance.simulator.adapter_digest) == ("it1", "it1" * 16)
        assert provenance.simulator.sampling.temperature == 0.7
        assert (provenance.chatbot.name, provenance.seat, provenance.drawn_from) == ("a", "user", None)
        assert (provenance.context_id, provenance.user_id) == (state.context_id, f"u{int(state.context_id[1]) % 2}")
        assert provenance.context_digest == context_digest(state.context)
        assert provenance.seeds == (result.episode.seed,)
        assert (provenance.ended_by, provenance.end_reason) == (state.end.by, state.end.reason)
        assert (provenance.num_user_turns, provenance.num_messages) == (state.num_user_turns, len(state.turns))
        assert provenance.num_tokens == sum(len(t.utterance.token_ids) for t in state.turns)
        assert Provenance.model_validate(json.loads(json.dumps(provenance.model_dump(mode="json")))) == provenance
        assert Collected.model_validate_json(result.model_dump_json()).provenance == provenance
    for result in collected(make_chatbot("steady"), {"it2": simulator(chat, ADAPTERS["it2"])}, "chatbot"):
        provenance = result.provenance
        assert (provenance.simulator.version, provenance.chatbot.name, provenance.chatbot.kind) == (
            "it2",
            "steady",
            "population",
        )


def test_context_digests_distinguish_contexts_and_accept_any_text():
    texts = ("p", "q", "a\ud83d")
    assert len({context_digest(SessionContext(profile=text)) for text in texts}) == 3
    assert context_digest(SessionContext(profile="p")) == context_digest(SessionContext(profile="p"))


def test_the_agents_adapter_is_read_from_its_messages(chat):
    agent = simulator(chat, ADAPTERS["it2"])

    async def play():
        core = ConversationCore(SCENARIOS, {"a": ScriptedChatbot()}, "user")
        _, before = await core.reset(seed=1)
        *_, after = await core.step(await agent.reply(core.state, 1))
        return before["provenance"].simulator, after["provenance"].simulator

    before, after = asyncio.run(play())
    assert before == SpeakerCard(name="agent")
    assert after == SpeakerCard(name="agent", version="it2", adapter_digest="it2" * 16)


def test_results_of_different_simulators_are_pooled_only_on_request(chat):
    bot = ScriptedChatbot()
    first = [r.provenance for r in collected(bot, {"it1": simulator(chat, ADAPTERS["it1"])}, "chatbot")]
    second = [r.provenance for r in collected(bot, {"it2": simulator(chat, ADAPTERS["it2"])}, "chatbot")][:4]
    check_poolable(first)
    check_poolable([])
    with pytest.raises(ConfigError) as caught:
        check_poolable([*first, *second])
    message = str(caught.value)
    assert "2 different simulators" in message and "allow_mixed=True" in message
    assert f"6 of {first[0].simulator.key}" in message and f"4 of {second[0].simulator.key}" in message
    check_poolable([*first, *second], allow_mixed=True)
    with pytest.raises(ConfigError, match="an unknown simulator"):
        check_poolable([*first, None])


def test_a_simulator_with_the_same_name_and_other_weights_is_a_different_one(chat):
    other = ADAPTERS["it1"].model_copy(update={"digest": "f" * 64})
    runs = [collected(ScriptedChatbot(), {"it1": simulator(chat, a)}, "chatbot") for a in (ADAPTERS["it1"], other)]
    with pytest.raises(ConfigError, match="2 different simulators"):
        check_poolable([r.provenance for run in runs for r in run])


def test_episodes_of_one_ensemble_may_be_pooled_and_those_of_other_weights_not():
    users = {name: ScriptedUser(name) for name in ("base", "it1")}

    def drawn(weights, **options):
        async def begin_all():
            core = ConversationCore(SCENARIOS, Ensemble(users, weights), "chatbot")
            return [(await core.reset(seed=seed, **options))[1]["provenance"] for seed in range(12)]

        return asyncio.run(begin_all())

    even, uneven = drawn({"base": 1, "it1": 1}), drawn({"base": 1, "it1": 3})
    assert {p.simulator.name for p in even} == {"base", "it1"}
    check_poolable(even)
    for others in (uneven, drawn(None, counterpart="it1")):
        with pytest.raises(ConfigError, match=r"ensemble of 0\.5"):
            check_poolable([*even, *others])
