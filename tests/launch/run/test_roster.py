"""Endpoints and callables in either seat: a real HTTP server, real requests, and typed failures."""

from __future__ import annotations

import asyncio
import json
import sys

import pytest

from launch.adversarial.simulation import read_simulated, simulate
from launch.run.config.speaker import SpeakerConfig
from launch.run.roster import make_speaker
from launch.run.settings import load_config
from rlenv.core.errors import ConfigError, PhaseError
from rlenv.core.types import SessionContext
from rlenv.env.collect import Episode, collect, in_order
from rlenv.env.conversation import Limits
from rlenv.env.core import ConversationCore
from rlenv.env.scenarios import Scenario
from rlenv.population.corpus import generate_sessions
from rlenv.speakers.endpoint import END_MARK
from rlenv.speakers.scripted import ScriptedChatbot, ScriptedUser
from tests.local_endpoint import serve

EPISODES = [Episode(episode_id=f"e{i}", context_id=f"c{i % 4}", counterpart="them", seed=i) for i in range(12)]
SCENARIOS = [
    Scenario(
        context_id=f"c{i}", user_id=f"u{i}", context=SessionContext(profile="p"), opener=("user", "assistant")[i % 2]
    )
    for i in range(4)
]


def speaker(seat: str, **settings):
    config = SpeakerConfig(**settings)
    context = load_config(None).context
    return make_speaker("them", seat, config, context, engines={}, formats={}, adapters={})


def hold(seat: str, ours, episodes=EPISODES):
    """Holds conversations with ``ours`` in ``seat`` as the agent, opposite a stand-in."""
    other = ScriptedChatbot("them") if seat == "user" else ScriptedUser("them", leave_rate=0.1)
    core = ConversationCore(SCENARIOS, {"them": other}, seat, Limits(max_turns=3))
    return asyncio.run(in_order(collect(ours, core.sibling, episodes), episodes))


def answer(body) -> str:
    """A model behind an endpoint: leaves after its second message, where it may."""
    own = sum(m["role"] == "assistant" for m in body["messages"])
    asked_to_end = END_MARK in body["messages"][0]["content"]
    return f"message {own + 1} under {body['seed'] % 7}" + (f" {END_MARK}" if asked_to_end and own else "")


def by_function(messages, seed):
    """The same as a callable: what ``kind: callable`` names."""
    return answer({"messages": messages, "seed": seed})


async def by_coroutine(messages, seed):
    """The same, async."""
    await asyncio.sleep(0)
    return by_function(messages, seed)


sys.modules.setdefault("speakers_under_test", sys.modules[__name__])


@pytest.mark.parametrize("seat", ["user", "chatbot"])
def test_an_endpoint_in_either_seat_completes_conversations(seat):
    with serve(answer) as server:
        results = hold(seat, speaker(seat, kind="endpoint", base_url=server.base_url, model="m"))
    assert not [r for r in results if r.failure]
    own = "user" if seat == "user" else "assistant"
    for result in results:
        texts = [t.utterance.text for t in result.state.turns if t.role == own]
        assert all(text.startswith(f"message {i} under") and END_MARK not in text for i, text in enumerate(texts, 1))
        assert all(not t.utterance.token_ids for t in result.state.turns)
    ends = {r.state.end.by for r in results}
    assert ends == {"user"} if seat == "user" else "user" in ends or "limit" in ends
    for body in server.requests:
        roles = [m["role"] for m in body["messages"]]
        assert roles[0] == "system" and "system" not in roles[1:] and roles[-1] == "user"
        assert (END_MARK in body["messages"][0]["content"]) is (seat == "user")
        assert body["model"] == "m" and body["max_tokens"] == 256


@pytest.mark.parametrize("seat", ["user", "chatbot"])
@pytest.mark.parametrize("function", ["by_function", "by_coroutine"])
def test_a_callable_replies_as_an_endpoint_of_the_same_model(seat, function):
    with serve(answer) as server:
        expected = hold(seat, speaker(seat, kind="endpoint", base_url=server.base_url, model="m"))
    results = hold(seat, speaker(seat, kind="callable", function=f"speakers_under_test:{function}"))
    assert [r.state for r in results] == [r.state for r in expected]
    kinds = {r.provenance.chatbot.kind if seat == "chatbot" else r.provenance.simulator.kind for r in results}
    assert kinds == {"callable"}  # the same words, and the record knows whose


def test_the_key_comes_from_the_environment_and_is_never_shown(monkeypatch):
    with serve(answer) as server:
        settings = {"kind": "endpoint", "base_url": server.base_url, "model": "m", "api_key_env": "KEY_OF_THE_TEST"}
        monkeypatch.delenv("KEY_OF_THE_TEST", raising=False)
        (result,) = hold("user", speaker("user", **settings), EPISODES[:1])
        assert result.failure == "data" and "KEY_OF_THE_TEST is not set" in result.reason
        monkeypatch.setenv("KEY_OF_THE_TEST", "s3cret")
        hold("user", speaker("user", **settings), EPISODES[:1])
        assert set(server.keys) == {"Bearer s3cret"}
        server.answer = lambda _: (401, {"message": "bad key s3cret"})
        (result,) = hold("user", speaker("user", **settings), EPISODES[:1])
        assert result.failure == "data" and "s3cret" not in result.reason


def test_a_brief_failure_of_an_endpoint_changes_nothing():
    seen: set[str] = set()

    def flaky(body):
        key = json.dumps(body, sort_keys=True)
        if key not in seen:
            seen.add(key)
            return 503, {"message": "busy"}
        return answer(body)

    with serve(flaky) as server, serve(answer) as steady:
        ours = hold("user", speaker("user", kind="endpoint", base_url=server.base_url, model="m"), EPISODES[:2])
        theirs = hold("user", speaker("user", kind="endpoint", base_url=steady.base_url, model="m"), EPISODES[:2])
    assert ours == theirs


def test_an_overlong_conversation_is_truncated_and_a_refusal_fails_with_its_status():
    def full(body):
        if len(body["messages"]) > 3:
            return 400, {"message": "too long", "code": "context_length_exceeded"}
        return "hm"

    with serve(full) as server:
        results = hold("user", speaker("user", kind="endpoint", base_url=server.base_url, model="m"))
        assert {r.state.end.reason for r in results} == {"max_tokens"}
        server.answer = lambda _: (400, {"message": "I said: private words"})
        failed = hold("user", speaker("user", kind="endpoint", base_url=server.base_url, model="m"))
    assert {r.failure for r in failed} == {"engine"}
    assert all("400" in r.reason and "private" not in r.reason for r in failed)


def raising(_messages, _seed):
    raise ValueError("private words")


def returning_nothing(_messages, _seed):
    return None


def test_a_callable_that_raises_or_returns_no_text_fails_the_conversation_without_message_text():
    for name, told in (("raising", "ValueError"), ("returning_nothing", "NoneType")):
        results = hold("user", speaker("user", kind="callable", function=f"speakers_under_test:{name}"))
        assert all(r.failure == "engine" and told in r.reason and "private" not in r.reason for r in results)
    for wrong in ("nowhere:f", "speakers_under_test:nothing", "speakers_under_test:EPISODES", "no-colon"):
        with pytest.raises(ConfigError, match=wrong.split(":")[0]):
            speaker("user", kind="callable", function=wrong)


def test_simulated_sessions_read_back_with_counts_and_too_many_failures_stop_the_run(tmp_path):
    sessions = generate_sessions(6, 1, 0)
    contexts = {"adversarial": sessions[:4], "evaluation": sessions[4:]}
    config = load_config(None, ["env.max_turns=3", "collect.simulations_per_context=2", "collect.max_failed_share=0.2"])
    with serve(answer) as server:
        user = speaker("user", kind="endpoint", base_url=server.base_url, model="m")
        bots = {name: ScriptedChatbot(name) for name in ("a", "b")}
        settings = (contexts, config.collect, config.env, config.seed)
        simulate(tmp_path / "whole", "t", "zero-shot", user, bots, *settings)
        server.answer = lambda body: (400, {"message": "no"}) if body["seed"] % 2 else answer(body)
        with pytest.raises(PhaseError, match="conversations failed"):
            simulate(tmp_path / "broken", "t", "zero-shot", user, bots, *settings)
    assert not (tmp_path / "broken").exists()
    made = read_simulated(tmp_path / "whole")
    assert len(made) == 12 and [s.part for s in made] == ["adversarial"] * 8 + ["evaluation"] * 4
    assert {s.session.chatbot for s in made} == {"a", "b"}
    assert sum(s.session.chatbot == "a" for s in made) == 6  # balanced
    counts = json.loads((tmp_path / "whole" / "counts.json").read_text())
    assert counts["episodes"] == counts["sessions"] == 12
    assert {(s.session.session_id.rsplit("#")[0], s.session.user_id) for s in made} == {
        (s.session_id, s.user_id) for s in sessions
    }
