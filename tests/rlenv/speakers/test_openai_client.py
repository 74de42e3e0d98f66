"""The one way to an OpenAI-compatible endpoint, over HTTP: retries, time-outs and typed failures, for whoever asks."""

from __future__ import annotations

import asyncio
import time

import pytest

from rlenv.core.errors import ConfigError, EngineError, OverlongError
from rlenv.core.types import Sampling, SessionContext
from rlenv.env.conversation import begin
from rlenv.evaluation.embeddings.models import EndpointEmbedder
from rlenv.speakers.completers import EndpointCompleter
from rlenv.speakers.endpoint import EndpointSpeaker
from rlenv.speakers.openai_client import OpenAIClient
from tests.local_endpoint import serve

SECRET = "word-from-a-message"
ASKED = [{"role": "user", "content": SECRET}]


def speak(url: str, **options):
    sampling = Sampling(max_tokens=5, temperature=0.5, top_p=0.9)
    speaker = EndpointSpeaker("gpt", "chatbot", url, "m", None, lambda context: SECRET, sampling, **options)
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


@pytest.mark.parametrize("ask", [speak, complete])
def test_speakers_too_ask_a_reasoning_model_without_the_options_it_refuses(ask):
    def answer(body):
        if "max_tokens" in body:
            return 400, {"message": "no", "param": "max_tokens"}
        return "Thought of."

    with serve(answer) as server:
        said = ask(server.base_url)
        assert (said if isinstance(said, str) else said.text) == "Thought of."
        assert "temperature" not in server.requests[-1] and server.requests[-1]["max_completion_tokens"] == 5


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


def test_an_answer_without_a_choice_is_empty():
    with serve(lambda body: {"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": []}) as s:
        assert speak(s.base_url).text == "" and complete(s.base_url) == ""
