"""The one way to an OpenAI-compatible endpoint, over HTTP: retries, time-outs and typed failures, for whoever asks."""

from __future__ import annotations

import asyncio
import multiprocessing
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from rlenv.core import aio
from rlenv.core.errors import ConfigError, EngineError, OverlongError, UnreachableError
from rlenv.core.types import Sampling, Seat, SessionContext
from rlenv.env.conversation import begin
from rlenv.evaluation.embeddings.models import EndpointEmbedder
from rlenv.speakers.completers import EndpointCompleter
from rlenv.speakers.endpoint import CallableSpeaker, EndpointSpeaker
from rlenv.speakers.openai_client import OpenAIClient
from tests.local_endpoint import serve

SECRET = "word-from-a-message"
ASKED = [{"role": "user", "content": SECRET}]


def speak(url: str, seat: Seat = "chatbot", **options):
    sampling = Sampling(max_tokens=5, temperature=0.5, top_p=0.9)
    speaker = EndpointSpeaker("gpt", seat, url, "m", None, lambda context: SECRET, sampling, **options)
    return asyncio.run(speaker.reply(begin("c", SessionContext(), opener="assistant", seed=0), 1))


def complete(url: str, **options):
    return asyncio.run(EndpointCompleter(url, "m", **options).complete(ASKED, 5, 1))


def embed(url: str, **options):
    return EndpointEmbedder(url, "m", **options).embed([SECRET])


@pytest.mark.parametrize("ask", [speak, complete, embed])
@pytest.mark.parametrize(
    ("status", "error", "told"),
    [
        (401, ConfigError, "status 401; check the address, the model"),
        (404, ConfigError, "status 404; check the address, the model"),
        (500, EngineError, "status 500 after 1 retries"),
        (429, EngineError, "status 429 after 1 retries"),
        (400, OverlongError, "exceeds the model.s context length"),
    ],
)
def test_every_caller_gets_one_error_type_without_text(ask, status, error, told):
    with serve(lambda body: (status, {"message": f"{SECRET}, beyond the context length"})) as server:
        with pytest.raises(error, match=told) as caught:
            ask(server.base_url, retries=1)
        assert len(server.requests) == (2 if status in (500, 429) else 1)
    assert SECRET not in str(caught.value) and "m at http" in str(caught.value)


@pytest.mark.parametrize("ask", [speak, complete, embed])
def test_an_attempt_that_takes_too_long_is_abandoned_for_every_caller(ask):
    slow, told = serve(lambda body: time.sleep(0.5) or "late"), "APITimeoutError after 0 retries"
    with slow as server, pytest.raises(EngineError, match=told):
        ask(server.base_url, timeout_s=0.1, retries=0)


@contextmanager
def dripping(seconds: float = 3.0) -> Iterator[str]:
    """Gives the address of a server that begins an answer and then sends a blank now and then."""
    ended = threading.Event()

    def drip(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n")
            end = time.monotonic() + seconds
            while time.monotonic() < end and not ended.wait(0.05):
                connection.sendall(b" ")

    def accept(server: socket.socket) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=drip, args=(server.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=accept, args=(server,), daemon=True).start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/v1"
        ended.set()


@pytest.mark.parametrize("ask", [speak, complete, embed])
def test_an_answer_that_comes_by_the_byte_is_abandoned_in_time(ask):
    with dripping() as url:
        began = time.monotonic()
        with pytest.raises(UnreachableError, match="APITimeoutError after 1 retries"):
            ask(url, timeout_s=0.2, retries=1)
        assert time.monotonic() - began < 2.5


@pytest.mark.parametrize("ask", [speak, complete, embed])
def test_a_connection_that_is_refused_is_told_after_the_retries(ask):
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/v1"
    with pytest.raises(UnreachableError, match=f"m at {url}: APIConnectionError after 1 retries"):
        ask(url, retries=1)


@pytest.mark.parametrize("ask", [speak, complete, embed])
def test_an_overloaded_server_is_asked_again_when_it_says(ask):
    asked: list[float] = []

    def busy(body):
        asked.append(time.monotonic())
        if len(asked) == 1:
            return 429, {"message": SECRET}, {"Retry-After": "1.3"}
        return {"object": "list", "model": "m", "data": [{"index": 0, "embedding": [1.0], "object": "embedding"}],
                **message(content="Now.")}  # fmt: skip

    with serve(busy) as server:
        ask(server.base_url, retries=1)
    assert asked[1] - asked[0] >= 1.3


@pytest.mark.parametrize("ask", [speak, complete, embed])
def test_a_server_that_asks_for_a_longer_pause_than_a_run_should_make_is_told_with_it(ask):
    with serve(lambda _: (429, {"message": SECRET}, {"Retry-After": "7200"})) as server:
        with pytest.raises(UnreachableError, match=r"status 429 .*Retry-After: 7200"):
            ask(server.base_url)
        assert len(server.requests) == 1


@pytest.mark.parametrize("ask", [speak, complete, embed])
@pytest.mark.parametrize(
    "url", ["http://[::1", "http://host:port", "https://", "http://a b/v1", "http://\ud83d", "host"]
)
def test_what_is_no_address_is_a_wrong_setting(ask, url):
    with pytest.raises(ConfigError, match="this is no address; expected one as http://host:8000/v1"):
        ask(url)


def test_a_function_that_takes_too_long_fails_the_conversation():
    async def hangs(messages, seed):
        await asyncio.sleep(60)

    speaker = CallableSpeaker("f", "chatbot", hangs, lambda context: SECRET, timeout_s=0.05)
    with pytest.raises(EngineError, match="f: the callable raised TimeoutError"):
        asyncio.run(speaker.reply(begin("c", SessionContext(), opener="assistant", seed=0), 1))


def refusing(*names: str, param: bool = True, message: str = "Unsupported parameter: '{}'"):
    """Returns a server's answers: it refuses these options, one a request, and answers without them."""

    def answer(body):
        for name in names:
            if name in body:
                return 400, {"message": message.format(name), "param": name if param else None}
        return "Thought of."

    return answer


@pytest.mark.parametrize("ask", [speak, complete])
@pytest.mark.parametrize("param", [True, False])
@pytest.mark.parametrize(
    ("names", "left"),
    [
        (("max_tokens", "temperature", "top_p"), {"seed", "max_completion_tokens"}),
        (("seed",), {"max_tokens", "temperature"}),
        (("max_tokens", "max_completion_tokens"), {"temperature", "seed"}),
        ((), {"temperature", "max_tokens", "seed"}),
    ],
)
def test_speakers_and_judges_ask_a_model_without_the_options_that_it_does_not_know(ask, param, names, left, caplog):
    with serve(refusing(*names, param=param)) as server:
        said = ask(server.base_url)
        assert (said if isinstance(said, str) else said.text) == "Thought of."
        assert set(server.requests[-1]) - {"messages", "model", "top_p"} == left
    assert SECRET not in caplog.text and all(f"does not take {name}" in caplog.text for name in names[:1])


def test_of_two_options_that_exclude_each_other_the_first_is_kept():
    def answer(body):
        if "temperature" in body and "top_p" in body:
            return 400, {"message": "temperature and top_p cannot both be given"}
        return "Yes."

    with serve(answer) as server:
        assert speak(server.base_url).text == "Yes."
        assert "temperature" in server.requests[-1] and "top_p" not in server.requests[-1]


def test_a_wrong_value_is_told_and_not_left_out():
    with serve(refusing("temperature", message="temperature must be between 0 and 0.2")) as server:
        with pytest.raises(EngineError, match=r"refused temperature=0\.5 \(status 400, param temperature\)"):
            speak(server.base_url)
        assert len(server.requests) == 1


def test_a_refusal_tells_the_servers_identifiers_and_never_its_sentence():
    error = {"message": f"I cannot read {SECRET}", "param": "messages", "code": "invalid_messages"}
    with serve(lambda body: (400, error)) as server:
        with pytest.raises(EngineError, match="status 400, param messages, code invalid_messages") as caught:
            speak(server.base_url)
        assert SECRET not in str(caught.value)
        server.answer = lambda body: (422, {"message": "no", "param": f"{SECRET} and more", "code": SECRET * 9})
        with pytest.raises(EngineError, match=r"refused a request \(status 422\)"):
            speak(server.base_url)


@pytest.mark.parametrize("opener", ["user", "assistant"])
def test_a_model_without_system_messages_reads_them_in_the_first_user_message(opener):
    def answer(body):
        if body["messages"][0]["role"] == "system":
            return 400, {"message": "System role not supported"}
        return "Yes." if body["messages"][0]["content"].startswith("be kind") else "No."

    asked = [{"role": "system", "content": "be kind"}, {"role": opener, "content": "hello"}]
    with serve(answer) as server:
        client = OpenAIClient(server.base_url, "m")
        for _ in range(2):
            assert asyncio.run(client.chat(asked, max_tokens=5, seed=1)).text == "Yes."
            client._client = None  # each asyncio.run has its own loop
        assert [m["role"] for m in server.requests[-1]["messages"]] == (
            ["user"] if opener == "user" else ["user", "assistant"]
        )
        assert len(server.requests) == 3


def test_concurrent_requests_learn_only_once_which_options_a_model_refuses():
    def answer(body):
        if "temperature" in body:
            time.sleep(0.1)  # all have asked by now
            return 400, {"message": "no", "param": "temperature"}
        return "Yes."

    async def many(client):
        return await asyncio.gather(*(client.chat(ASKED, max_tokens=5, seed=i, temperature=0.3) for i in range(4)))

    with serve(answer) as server:
        answers = asyncio.run(many(OpenAIClient(server.base_url, "m")))
        assert [a.text for a in answers] == ["Yes."] * 4 and len(server.requests) == 8


def completion(**choice) -> dict:
    """A body of a chat completion with one choice."""
    return {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": [{"index": 0, **choice}]}


def message(**fields) -> dict:
    return completion(message={"role": "assistant", "content": None, **fields}, finish_reason="stop")


@pytest.mark.parametrize("ask", [speak, complete])
@pytest.mark.parametrize(
    ("body", "told"),
    [
        (message() | {"choices": []}, "without a choice"),
        ({"id": None, "choices": None, "error": {"message": SECRET, "code": 429}}, "error 429 in place of a choice"),
        ({"error": SECRET}, "no chat completion"),
        (b"<html>please log in</html>", "a page of text, .*check the address"),
        (b'{"choices": [', "no chat completion"),
        (b"[]", "no chat completion"),
        (completion(message=None), "no message"),
    ],
)
def test_what_is_no_chat_completion_is_asked_again_and_then_told(ask, body, told):
    with serve(lambda _: body) as server:
        with pytest.raises(EngineError, match=f"m at http.*{told}") as caught:
            ask(server.base_url, retries=1)
        assert len(server.requests) == 2 and SECRET not in str(caught.value)
        bodies = iter([body, "Now."])
        server.answer = lambda _: next(bodies)
        said = ask(server.base_url, retries=1)
        assert (said if isinstance(said, str) else said.text) == "Now."


@pytest.mark.parametrize("ask", [speak, complete])
@pytest.mark.parametrize(
    ("body", "text"),
    [
        (
            message(content=[{"type": "text", "text": "Go "}, {"type": "image_url"}, {"type": "text", "text": "on."}]),
            "Go on.",
        ),
        (message(content="<think>It is hard. {} </think>\n\nGo on."), "Go on."),
        (message(content="It is hard.</think>Go on."), "Go on."),
        (message(content="<THINKING>a</THINKING><think>b</think> Go on."), "Go on."),
        (message(content="Go on <think>", reasoning_content="It is hard."), "Go on <think>"),
        (message(content="Go on.", refusal=""), "Go on."),
    ],
)
def test_an_answer_is_the_models_words_without_its_thoughts(ask, body, text):
    with serve(lambda _: body) as server:
        said = ask(server.base_url)
        assert (said if isinstance(said, str) else said.text) == text


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (completion(message={"role": "assistant", "content": ""}, finish_reason="content_filter"), "content filter"),
        (
            message(tool_calls=[{"id": "1", "type": "function", "function": {"name": "f", "arguments": ""}}]),
            "called a tool",
        ),
    ],
)
def test_an_answer_that_another_attempt_would_not_give_is_told_at_once(body, told):
    with serve(lambda _: body) as server:
        for ask in (speak, complete):
            with pytest.raises(EngineError, match=told):
                ask(server.base_url)
        assert len(server.requests) == 2


def test_a_chatbots_refusal_is_its_message_and_a_users_or_judges_is_an_error():
    with serve(lambda _: message(refusal="I cannot help with that.")) as server:
        assert speak(server.base_url).text == "I cannot help with that."
        for ask, told in (
            (lambda url: speak(url, seat="user"), "refused to take the user's seat"),
            (complete, "refused to answer"),
        ):
            with pytest.raises(EngineError, match=told):
                ask(server.base_url)


def test_thoughts_that_use_up_the_limit_are_no_message():
    choice = {"message": {"role": "assistant", "content": "<think>It is"}, "finish_reason": "length"}
    with serve(lambda _: completion(**choice)) as server:
        with pytest.raises(EngineError, match=r"no message within sampling\.max_tokens = 5; raise it"):
            speak(server.base_url)
        assert complete(server.base_url) == ""


def test_half_an_emoji_in_a_chat_reaches_the_model_as_a_character_that_is_missing():
    with serve(lambda body: "ok") as server:
        completer = EndpointCompleter(server.base_url, "m", retries=0)
        assert asyncio.run(completer.complete([{"role": "user", "content": "half \ud83d"}], 5, 1)) == "ok"
        assert [m["content"] for m in server.requests[0]["messages"]] == ["half \ufffd"]


def test_a_key_with_characters_that_no_key_has_is_told_and_not_shown(monkeypatch):
    for key in ("\u201cs3cret\u201d", "s3cret\ns3cret", "s3 cret"):
        monkeypatch.setenv("ODD_KEY", key)
        with pytest.raises(ConfigError, match="the environment variable ODD_KEY has characters") as caught:
            complete("http://127.0.0.1:9/v1", key_env="ODD_KEY")
        assert "cret" not in str(caught.value)


def test_a_forked_process_connects_anew():
    with serve(lambda body: str(body["seed"])) as server:
        client = OpenAIClient(server.base_url, "m")

        def say(seed: int) -> str:
            return aio.run(client.chat(ASKED, max_tokens=5, seed=seed)).text

        assert say(0) == "0"
        receive, send = multiprocessing.Pipe(duplex=False)
        child = multiprocessing.get_context("fork").Process(target=lambda: send.send([say(i) for i in range(3)]))
        child.start()
        assert receive.poll(30) and receive.recv() == ["0", "1", "2"]
        child.join()
        assert say(7) == "7"
