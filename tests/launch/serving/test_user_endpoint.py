"""The served user, called by the real ``openai`` client over HTTP: it replies as the env's user under the same seed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import httpx
import openai
import psutil
import pytest
import uvicorn

from launch.cli.main import app as command_line
from launch.serving.user_endpoint import served_users, user_app
from launch.serving.user_requests import SampledMessages, UserRequest, state_of
from rlenv.core.errors import ConfigError, EngineError, OverlongError
from rlenv.core.types import Sampling, SessionContext
from rlenv.env.conversation import Limits
from rlenv.env.core import ConversationCore, Scenario
from rlenv.env.ensemble import Ensemble
from rlenv.env.scenarios import Scenarios
from rlenv.speakers.engine import EngineSpeaker
from rlenv.speakers.scripted import ScriptedUser

SAYS = ("Hello, what brings you here?", "Since when?", "That sounds hard.", "Who knows of it?")
SCENARIOS = [
    Scenario(
        context_id=f"c{i}", user_id=f"u{i // 2}", context=SessionContext(profile=f"person {i}"), opener="assistant"
    )
    for i in range(4)
]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def served(user, key: str | None = None, **options):
    """Yields (client, application) of a running server."""
    app = user_app({"it2": user}, Scenarios(SCENARIOS), api_key=key, **options)
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="error"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    try:
        yield openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key=key or "none", max_retries=0), app
    finally:
        server.should_exit = True
        thread.join(30)


def ask(client, messages, n=1, model="it2", seed=7, **extra):
    return client.chat.completions.create(model=model, messages=messages, seed=seed, n=n, extra_body=extra)


def talk(client, seed=7, **extra) -> tuple[list[str], bool]:
    """Returns the user's replies to ``SAYS`` until it leaves, and whether it leaves."""
    messages, said, ended = [], [], False
    for line in SAYS:
        messages.append({"role": "assistant", "content": line})
        choice = ask(client, messages, seed=seed, **extra).choices[0]
        said.append(choice.message.content)
        messages.append({"role": "user", "content": said[-1]})
        if ended := choice.rlenv["ended"]:
            break
    return said, ended


def in_the_env(user, seed=7, context_id="c1") -> tuple[list[str], bool]:
    """Returns the same from the env."""

    async def play():
        core = ConversationCore(SCENARIOS, {"it2": user}, "chatbot", Limits(max_turns=50))
        await core.reset(seed=seed, context_id=context_id)
        for line in SAYS:
            await core.step(line)
            if core.over:
                break
        left = core.state.end is not None
        said = [t.utterance.text for t in core.state.turns if t.role == "user"]
        return ([*said, ""] if left and core.state.end.said else said), left, core.state

    said, left, state = asyncio.run(play())
    return (said, left), state


@pytest.mark.parametrize("seed", range(4))
def test_a_scripted_user_replies_over_http_as_in_the_env(seed):
    user = ScriptedUser(leave_rate=0.3)
    with served(user) as (client, _):
        assert talk(client, seed, context_id="c1") == in_the_env(user, seed)[0]
        assert [m.id for m in client.models.list().data] == ["it2"]


def test_a_model_reads_its_sampled_tokens_and_encodes_text_where_they_are_not_cached(tiny_llama, tmp_path):
    from transformers import AutoTokenizer

    from actors.engines.config import EngineConfig
    from actors.engines.transformers_engine import TransformersEngine
    from rlenv.prompting.chat_format import chat_format

    class Noting(TransformersEngine):
        prompts: list[tuple[int, ...]]

        async def generate(self, token_ids, sampling, adapter=None, conversation=None):
            self.prompts.append(tuple(token_ids))
            return await super().generate(token_ids, sampling, adapter, conversation)

    settings = {"backend": "transformers", "dtype": "float32", "max_model_len": 1024}
    engine = Noting(EngineConfig(model=str(tiny_llama), log_dir=str(tmp_path), **settings))
    asyncio.run(engine.start())
    chat = chat_format(AutoTokenizer.from_pretrained(tiny_llama))
    user = EngineSpeaker("it2", engine, chat, "user", lambda c: c.profile or "", Sampling(max_tokens=12))
    engine.prompts = []
    expected, state = in_the_env(user)
    in_env = list(engine.prompts)
    differs = [t for t in state.turns if t.role == "user" and chat.reply_ids(t.utterance.text) != t.utterance.token_ids]
    assert differs  # encoding the text again would give other tokens
    with served(user) as (client, app):
        engine.prompts.clear()
        assert talk(client, context_id="c1") == expected and engine.prompts == in_env
        first = [{"role": "assistant", "content": SAYS[0]}]
        one, forks = ask(client, first, context_id="c1"), ask(client, first, n=4, context_id="c1")
        assert one.choices[0].message == forks.choices[0].message
        assert len({choice.message.content for choice in forks.choices}) > 2
        assert one.usage.prompt_tokens == len(in_env[0]) and 0 < one.usage.completion_tokens <= 12
        assert one.model_extra["rlenv"]["context_id"] == "c1"
        assert len(app.state.known) >= 4 + len(forks.choices) - 1
    with served(user, most_messages=1) as (client, app):
        engine.prompts.clear()
        ask(client, [{"role": "assistant", "content": SAYS[0]}], n=3, context_id="c1")
        assert len(app.state.known) == 1
        assert talk(client, context_id="c1")[0][0] == expected[0][0]
    engine.close()


def test_the_user_may_open_and_may_be_any_person():
    with served(ScriptedUser()) as (client, _):
        for who in ({"persona": "u1"}, {"profile": "a nurse"}, {"context": {"profile": "x", "situation": "y"}}, {}):
            answer = ask(client, [{"role": "system", "content": "You are a chatbot."}], **who)
            assert answer.choices[0].message.content
            expected = {"c2", "c3"} if "persona" in who else {"own"} if who else {f"c{i}" for i in range(4)}
            assert answer.model_extra["rlenv"]["context_id"] in expected
        answer = client.chat.completions.create(model="it2", messages=[], seed=1, temperature=0.3)
        assert answer.model_extra["rlenv"]["ignored"] == ["temperature"]


SPOKEN = [{"role": "assistant", "content": "private words"}]


@pytest.mark.parametrize(
    ("request_", "status", "message"),
    [
        ({"messages": [{"role": "user", "content": "private words"}]}, 400, "the last message is the user's"),
        ({"messages": SPOKEN, "model": "it3"}, 404, "there are it2; did you mean 'it2'"),
        ({"messages": SPOKEN, "context_id": "d1"}, 400, "no context 'd1'"),
        ({"messages": SPOKEN, "context_id": "c1", "persona": "u1"}, 400, "context_id and persona were given"),
        ({"messages": SPOKEN, "seed": None}, 400, "no user is described"),
        ({"messages": SPOKEN, "n": 65}, 400, "n: .*64"),
        ({"messages": [{"role": "narrator", "content": "private words"}]}, 400, "messages.0.role"),
        ({"messages": [{"role": "assistant", "content": 5}]}, 400, "expected text or a list of parts, got int"),
        ({"messages": [{"role": "assistant", "content": [5]}]}, 400, "expected text or a list of parts"),
        ({"messages": [{"role": "assistant", "content": "x" * 100_001}]}, 400, "100000 characters"),
        ({"messages": SPOKEN, "context": {"profile": 3}}, 400, "context.profile: expected text"),
        ({"messages": "private words"}, 400, "messages: expected a list"),
        ({"messages": SPOKEN, "stream_options": 3}, 400, "stream_options: expected settings as key: value"),
    ],
)
def test_a_request_that_cannot_be_answered_gives_an_openai_error_without_message_text(request_, status, message):
    with served(ScriptedUser()) as (client, _), pytest.raises(openai.APIStatusError, match=message) as caught:
        ask(client, **request_)
    assert caught.value.status_code == status and "private" not in str(caught.value)
    assert set(caught.value.body) == {"message", "type", "param", "code"}


def part(text: str) -> dict:
    return {"type": "text", "text": text}


PICTURE = {"type": "image_url", "image_url": {"url": "x"}}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("sent", "said", "passed_over"),
    [
        ([{"role": "assistant", "content": [part("Hel"), part("lo?")]}], ["Hello?"], 0),
        ([{"role": "assistant", "content": [PICTURE, part("Hello?")]}], ["Hello?"], 0),
        ([{"role": "assistant", "content": text} for text in ("Hello.", "And you?")], ["Hello.\nAnd you?"], 0),
        (
            [
                {"role": "developer", "content": "Be kind."},
                {"role": "assistant", "content": "One moment.", "tool_calls": [CALL]},
                {"role": "tool", "tool_call_id": "1", "content": [part("secret")]},
                {"role": "assistant", "content": None, "tool_calls": [CALL]},
                {"role": "tool", "tool_call_id": "1", "content": "secret"},
                {"role": "function", "name": "f", "content": "secret"},
                {"role": "assistant", "content": "", "tool_calls": [CALL]},
                {"role": "assistant", "content": "Done. Else?"},
            ],
            ["One moment.\nDone. Else?"],
            6,
        ),
        (
            [
                {"role": "assistant", "content": "Hello?"},
                {"role": "user", "content": "Hi."},
                {"role": "user", "content": [part("Still there?")]},
                {"role": "assistant", "content": None, "refusal": "I cannot say."},
            ],
            ["Hello?", "Hi.\nStill there?", "I cannot say."],
            0,
        ),
        ([{"role": "assistant", "content": ""}], [""], 0),
        ([{"role": "system", "content": "Hi."}, {"role": "assistant", "content": None, "tool_calls": [CALL]}], [], 2),
    ],
)  # fmt: skip
def test_what_agents_send_is_read_as_what_was_said(sent, said, passed_over):
    request = UserRequest(model="it2", messages=sent, seed=1)
    assert [text for _, text in request.spoken()] == said
    state, _ = state_of(request, Scenarios(SCENARIOS), SampledMessages(), 1)
    assert [turn.utterance.text for turn in state.turns] == said
    with served(ScriptedUser()) as (client, _):
        answer = ask(client, sent)
        assert answer.choices[0].message.content and answer.model_extra["rlenv"]["passed_over"] == passed_over
        plain = [{"role": role, "content": text} for role, text in request.spoken()]
        assert ask(client, plain).choices[0].message.content == answer.choices[0].message.content


JSON_BODY = {"Content-Type": "application/json"}


def test_parameters_that_are_null_count_as_not_given():
    with served(ScriptedUser()) as (client, _):
        plain = ask(client, SPOKEN)
        nulls = dict.fromkeys(("n", "stream", "stream_options", "context_id", "temperature", "tools"))
        body = {"model": "it2", "messages": SPOKEN, "seed": 7, **nulls}
        answer = client.post("/chat/completions", cast_to=dict, body=body)
        assert answer["choices"][0]["message"]["content"] == plain.choices[0].message.content
        assert answer["rlenv"]["ignored"] == []


def test_a_body_that_is_no_json_of_a_request_is_told():
    with served(ScriptedUser()) as (client, _), httpx.Client(base_url=str(client.base_url)) as http:
        for content, headers, told in (
            ("{private", JSON_BODY, "expected JSON"),
            ("[1]", JSON_BODY, "body"),
            ('{"model": "it2"}', {}, "Content-Type: application/json"),
        ):
            refused = http.post("chat/completions", content=content, headers=headers)
            assert refused.status_code == 400 and told in refused.json()["error"]["message"]
            assert "private" not in refused.text
        assert "chat completions" in http.post("responses", json={"input": "x"}).json()["error"]["message"]


def test_half_an_emoji_in_a_request_is_read_as_a_character_that_is_missing():
    messages = [{"role": "assistant", "content": text} for text in ("half \ud83d", [part("\ud83d")])]
    request = UserRequest(model="it2", messages=messages, profile="\ud83d", seed=1)
    assert (request.spoken(), request.profile) == ([("assistant", "half \ufffd\n\ufffd")], "\ufffd")
    with served(ScriptedUser()) as (client, _):  # the client itself cannot send it
        body = json.dumps({"model": "it2", "messages": messages, "seed": 7})
        answer = httpx.post(f"{client.base_url}chat/completions", content=body, headers=JSON_BODY)
        assert answer.status_code == 200


def test_a_reply_with_half_an_emoji_reaches_the_client_and_is_recognised_when_it_comes_back():
    class Half(ScriptedUser):
        async def reply(self, state, seed):
            return (await super().reply(state, seed)).model_copy(update={"text": "half \ud83d", "token_ids": (7,)})

    with served(Half()) as (client, app):
        said = ask(client, SPOKEN).choices[0].message.content
        assert said == "half \ufffd"
        messages = [*SPOKEN, {"role": "user", "content": said}, *SPOKEN]
        state, _ = state_of(
            UserRequest(model="it2", messages=messages, seed=7), Scenarios(SCENARIOS), app.state.known, 7
        )
        assert [turn.utterance.token_ids for turn in state.turns] == [(), (7,), ()]


def test_a_fault_is_told_and_logged_by_its_place_and_never_by_its_text(caplog, capfd):
    def fails(_):
        raise ValueError("private words")

    with served(ScriptedUser(fails=fails)) as (client, _), pytest.raises(openai.InternalServerError) as caught:
        ask(client, SPOKEN)
    shown = str(caught.value) + caplog.text + "".join(capfd.readouterr())
    assert "ValueError in test_user_endpoint.py" in caplog.text and caught.value.code == "internal_error"
    assert "private" not in shown and "Traceback" not in shown


def test_a_stream_has_the_words_of_a_plain_answer():
    with served(ScriptedUser(leave_rate=1.0)) as (client, _):
        plain = ask(client, SPOKEN, n=2)
        options = {"stream": True, "stream_options": {"include_usage": True}}
        chunks = list(client.chat.completions.create(model="it2", messages=SPOKEN, seed=7, n=2, **options))
        for choice in plain.choices:
            own = [c.choices[0] for c in chunks if c.choices and c.choices[0].index == choice.index]
            assert "".join(c.delta.content or "" for c in own) == choice.message.content
            assert own[-1].finish_reason == choice.finish_reason and own[-1].rlenv == choice.rlenv
        assert chunks[-1].usage.total_tokens == plain.usage.total_tokens and not chunks[-1].choices
        assert {c.object for c in chunks} == {"chat.completion.chunk"}
        without = client.chat.completions.create(model="it2", messages=SPOKEN, seed=7, stream=True)
        assert all(chunk.usage is None for chunk in without)
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(model="it3", messages=SPOKEN, seed=7, stream=True)


def test_a_served_model_can_be_looked_up_by_its_name():
    with served(ScriptedUser()) as (client, _):
        assert client.models.retrieve("it2").id == "it2"
        with pytest.raises(openai.NotFoundError, match="did you mean 'it2'"):
            client.models.retrieve("it3")


def test_a_wrong_key_an_overlong_conversation_and_a_dead_engine_have_their_codes():
    with served(ScriptedUser(), key="s3cret") as (client, _):
        assert client.models.list().data
        assert httpx.get(f"{client.base_url}models", headers={"Authorization": "bearer s3cret"}).status_code == 200
        wrong = client.with_options(api_key="other")
        with pytest.raises(openai.AuthenticationError):
            wrong.models.list()
        with pytest.raises(openai.AuthenticationError):
            ask(wrong, SPOKEN)
        with pytest.raises(openai.NotFoundError):
            client.embeddings.create(model="it2", input="x")
    for error, kind in (
        (OverlongError("too long"), openai.BadRequestError),
        (EngineError("gone"), openai.APIStatusError),
    ):
        with served(ScriptedUser(fails=lambda _, e=error: e)) as (client, _), pytest.raises(kind) as caught:
            ask(client, SPOKEN)
        assert caught.value.code == ("context_length_exceeded" if isinstance(error, OverlongError) else "engine_error")


def test_the_command_line_reports_what_is_missing(finished_run, monkeypatch):
    from typer.testing import CliRunner

    monkeypatch.delenv("KEY_OF_THE_TEST", raising=False)
    for arguments, told in (
        (["--api-key-env", "KEY_OF_THE_TEST"], "KEY_OF_THE_TEST is not set"),
        (["split=nothing"], "no split 'nothing'"),
    ):
        result = CliRunner().invoke(command_line, ["serve-user", str(finished_run), *arguments])
        assert result.exit_code and told in str(result.exception)


def test_the_newest_version_is_served_by_default_even_if_an_older_one_has_a_larger_weight():
    names = ["prompted", "base", *(f"it{k}" for k in range(1, 11))]
    simulators = Ensemble({name: ScriptedUser() for name in names}, {name: float(name == "base") for name in names})
    assert list(served_users(simulators)) == ["it10"]
    assert list(served_users(simulators, refused=["it10"])) == ["it9"]
    assert list(served_users(simulators, ["it2", "base"])) == ["it2", "base"]
    with pytest.raises(ConfigError, match="no simulator 'it11'"):
        served_users(simulators, ["it11"])


@pytest.mark.ray
@pytest.mark.slow
def test_the_command_serves_a_simulator_in_its_own_process_and_ends_cleanly_on_a_signal(
    finished_run, ray_folder, still_running
):
    port = free_port()
    environment = {**os.environ, "RAY_TMPDIR": str(ray_folder), "THE_KEY": "s3cret"}
    environment.pop("RAY_ADDRESS", None)
    command = ["serve-user", str(finished_run), "--version", "it1", "--port", str(port), "--api-key-env", "THE_KEY"]
    server = subprocess.Popen(
        [sys.executable, "-m", "launch", *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment,
        text=True, start_new_session=True,
    )  # fmt: skip
    try:
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="s3cret", max_retries=0)
        while True:
            try:
                assert [m.id for m in client.models.list().data] == ["it1"]
                break
            except openai.APIConnectionError:
                assert server.poll() is None, server.stdout.read()[-2000:]
                time.sleep(0.2)
        said = [ask(client, [{"role": "assistant", "content": SAYS[0]}], model="it1", seed=s) for s in (3, 3, 4)]
        words = [answer.choices[0].message.content for answer in said]
        assert words[0] == words[1] != words[2] and " it1 " in said[0].model_extra["rlenv"]["simulator"]
        with pytest.raises(openai.AuthenticationError):
            ask(client.with_options(api_key="wrong"), [{"role": "assistant", "content": SAYS[0]}], model="it1")
        family = psutil.Process(server.pid).children(recursive=True)
        assert family  # Ray's processes, and the engine in one of them
        server.terminate()
        output, _ = server.communicate(timeout=60)
        assert server.returncode == 0 and "Traceback" not in output and SAYS[0] not in output
        assert still_running(family) == []
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()
