"""Embedding sessions: their text, chunks and cache, with the real MiniLM and an endpoint over HTTP."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pytest

from rlenv.core.errors import ConfigError, EngineError, OverlongError
from rlenv.core.types import Message, Session
from rlenv.evaluation.embeddings.embedders import (
    SESSIONS_AT_ONCE,
    VectorCache,
    chunks,
    embed_sessions,
    session_lines,
)
from rlenv.evaluation.embeddings.models import PACKAGE, EndpointEmbedder, MiniLM, minilm_folder
from tests.local_endpoint import serve

SECRET = "word-from-a-message"
needs_minilm = pytest.mark.skipif(find_spec(PACKAGE) is None, reason="MiniLM is not installed (see launch/install.sh)")


def words(text: str) -> int:
    return len(text.split())


def session(*texts: str) -> Session:
    roles = ("user", "assistant")
    messages = tuple(Message(role=roles[i % 2], content=text) for i, text in enumerate(texts))
    return Session(session_id="s", messages=messages)


class Counting:
    """Embeds a text as (its words, 1), and notes what it was asked."""

    name, max_tokens = "counting", 4

    def __init__(self) -> None:
        self.asked: list[str] = []

    def count_tokens(self, text: str) -> int:
        return words(text)

    def embed(self, texts) -> np.ndarray:
        self.asked += texts
        return np.array([[words(text), 1.0] for text in texts])


# -------------------------------------------------------------------------------------- pieces of a session


def test_the_first_fifty_messages_are_read_and_blank_ones_are_left_out():
    lines = session_lines(session(*(f"m{i}" if i != 3 else " " for i in range(60))))
    assert len(lines) == 49 and lines[:3] == ["user: m0", "chatbot: m1", "user: m2"] and lines[-1] == "chatbot: m49"
    assert session_lines(session("half \ud83d")) == ["user: half \ufffd"]


@pytest.mark.parametrize("room", [1, 2, 3, 7, 50])
def test_chunks_hold_every_word_in_order_and_none_is_too_long(room):
    lines = [" ".join(f"w{i}.{k}" for k in range(i % 9)) for i in range(20)]
    made = chunks([line for line in lines if line], room, words)
    assert " ".join(text for text, _ in made).split() == " ".join(lines).split()
    assert all(size == words(text) <= room for text, size in made)


def test_a_word_longer_than_all_room_is_divided():
    assert [text for text, _ in chunks(["x" * 25], 10, len)] == ["x" * 10, "x" * 10, "x" * 5]


def test_a_session_is_the_mean_of_its_chunks_by_their_tokens_and_equal_ones_are_embedded_once():
    embedder = Counting()
    done = []
    found = embed_sessions(
        embedder, [session("a b c", "d e"), session(), session("a b c", "d e")], advance=lambda: done.append(1)
    )
    # "user: a b c" has four words, "chatbot: d e" three: two chunks; (4 x 4 + 3 x 3) / 7
    assert found[0] == pytest.approx([25 / 7, 1.0]) and found[1] is None and np.array_equal(found[0], found[2])
    assert embedder.asked == ["user: a b c", "chatbot: d e"] and len(done) == 3


def test_vectors_are_cached_by_text_and_model_and_damaged_ones_are_made_again(tmp_path):
    embedder, sessions, cache = Counting(), [session("a b", SECRET), session(), session("c")], VectorCache(tmp_path)
    expected = embed_sessions(embedder, sessions, cache)
    again, done = Counting(), []
    found = embed_sessions(again, sessions[::-1], VectorCache(tmp_path), advance=lambda: done.append(1))
    assert again.asked == [] and len(done) == 3
    assert [v is None or v.tolist() for v in found] == [v is None or v.tolist() for v in expected[::-1]]
    assert all(SECRET.encode() not in path.read_bytes() for path in tmp_path.rglob("*.npy"))
    for path in tmp_path.rglob("*.npy"):
        path.write_bytes(b"damaged")
    embed_sessions(again, sessions, cache)
    assert again.asked == embedder.asked
    other = Counting()
    other.name = "another"
    embed_sessions(other, sessions, cache)
    assert other.asked == embedder.asked


def test_what_was_embedded_before_a_failure_is_not_embedded_again(tmp_path):
    class Failing(Counting):
        def embed(self, texts):
            if self.asked:
                raise EngineError("gone")
            return super().embed(texts)

    sessions = [session(f"word{i}") for i in range(SESSIONS_AT_ONCE + 3)]
    with pytest.raises(EngineError):
        embed_sessions(Failing(), sessions, VectorCache(tmp_path))
    rest = Counting()
    embed_sessions(rest, sessions, VectorCache(tmp_path))
    assert rest.asked == [f"user: word{i}" for i in range(SESSIONS_AT_ONCE, SESSIONS_AT_ONCE + 3)]


# ---------------------------------------------------------------------------------------------- MiniLM


@needs_minilm
def test_minilm_puts_like_beside_like_whatever_else_is_in_the_batch():
    texts = [
        "I cannot sleep, I lie awake all night.", "My boss keeps shouting at me at work.",
        "I have had insomnia for weeks.", "The office is unbearable, my manager is so rude.",
        "Blue whales are the largest animals. " * 30,
    ]  # fmt: skip
    model = MiniLM()
    found = model.embed(texts)
    assert found.shape == (5, 384) and np.linalg.norm(found, axis=1) == pytest.approx(np.ones(5))
    similarity = found @ found.T
    assert similarity[0, 2] > 0.5 and similarity[1, 3] > 0.4 and max(similarity[0, 1], similarity[2, 3]) < 0.3
    assert model.embed(texts[:1])[0] == pytest.approx(found[0], abs=1e-5)


@needs_minilm
def test_minilm_gives_the_vectors_of_its_model_as_transformers_runs_it():
    import torch
    from transformers import AutoModel, AutoTokenizer

    texts = ["Caf\u00e9s at 3 a.m.?", "I can't sleep, really.", "so tired " * 200, "x"]
    tokenizer, model = (kind.from_pretrained(minilm_folder()) for kind in (AutoTokenizer, AutoModel))
    ours = MiniLM()
    assert [ours.count_tokens(t) for t in texts] == [
        len(tokenizer(t, add_special_tokens=False).input_ids) for t in texts
    ]
    batch = tokenizer(texts, truncation=True, max_length=256, padding=True, return_tensors="pt")
    with torch.inference_mode():
        hidden, mask = model(**batch).last_hidden_state, batch["attention_mask"][..., None]
    mean = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=-1)
    assert ours.embed(texts) == pytest.approx(mean.numpy(), abs=1e-5)


@needs_minilm
def test_minilm_reads_a_session_that_is_longer_than_its_limit_to_the_end():
    model = MiniLM()
    filler = "We talked about the weather and about the garden for a long while. " * 20
    long, other, short = (
        session(filler, text, filler) for text in ("I am afraid of dogs.", "I love opera.", "I love opera.")
    )
    parts = chunks(session_lines(long), model.max_tokens, model.count_tokens)
    assert len(parts) > 2 and all(size <= 254 for _, size in parts)
    end = session(filler, "Yes.", "I am so afraid of dogs, they bite, dogs everywhere. " * 30)
    vectors = embed_sessions(model, [long, other, short, end])
    assert np.array_equal(vectors[1], vectors[2]) and not np.allclose(vectors[0], vectors[1])
    dogs = model.embed(["dogs that bite"])[0]
    assert vectors[3] @ dogs > vectors[0] @ dogs + 0.1


def test_a_missing_package_is_reported_with_how_to_install_it(monkeypatch):
    monkeypatch.setattr("rlenv.evaluation.embeddings.models.PACKAGE", "a_package_that_is_not_there")
    with pytest.raises(ConfigError, match=r"pip install -e .\[embeddings\]"):
        minilm_folder()


# -------------------------------------------------------------------------------------------- an endpoint


def answer(body, vector=lambda text: [float(len(text)), 1.0]) -> dict:
    data = [{"object": "embedding", "index": i, "embedding": vector(text)} for i, text in enumerate(body["input"])]
    return {
        "object": "list",
        "model": body["model"],
        "data": data[::-1],
        "usage": {"prompt_tokens": 0, "total_tokens": 0},
    }


def test_an_endpoint_is_asked_in_batches_and_its_vectors_come_in_the_order_of_the_texts():
    texts = [SECRET[: i % 7] + "x" * i for i in range(1, 51)]
    with serve(answer) as server:
        found = EndpointEmbedder(server.base_url, "m").embed(texts)
        assert found[:, 0].tolist() == [len(text) for text in texts]
        assert sorted(len(body["input"]) for body in server.requests) == [2, 16, 16, 16]
        assert {body["model"] for body in server.requests} == {"m"} and server.most_at_once <= 4


def test_a_request_is_repeated_after_a_passing_error():
    replies = iter([(503, {"message": SECRET}), (429, {"message": SECRET})])
    with serve(lambda body: next(replies, None) or answer(body)) as server:
        assert EndpointEmbedder(server.base_url, "m").embed(["abc"]).tolist() == [[3.0, 1.0]]
        assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("reply", "error", "told"),
    [
        (lambda body: (401, {"message": SECRET}), ConfigError, "status 401; check .* the key in KEY_OF"),
        (lambda body: (500, {"message": SECRET}), EngineError, "status 500 after 0 retries"),
        (lambda body: (400, {"message": "context length"}), OverlongError, "exceeds the model.s context length"),
        (lambda body: {**answer(body), "data": []}, EngineError, "expected 2 vectors, got 0"),
        (lambda body: {**answer(body), "data": answer(body)["data"][:1]}, EngineError, "expected 2 vectors, got 1"),
        (lambda body: answer(body, lambda text: [1.0] * len(text)), EngineError, "finite vectors of equal length"),
        (lambda body: answer(body, lambda text: [float("nan")]), EngineError, "finite vectors of equal length"),
    ],
)  # fmt: skip
def test_an_endpoints_errors_are_reported_without_text(reply, error, told, monkeypatch):
    monkeypatch.setenv("KEY_OF_THE_TEST", "k")
    with serve(reply) as server, pytest.raises(error, match=told) as caught:
        EndpointEmbedder(server.base_url, "m", "KEY_OF_THE_TEST", retries=0).embed([SECRET, "b"])
    assert SECRET not in str(caught.value)


def test_a_missing_key_and_a_limit_of_0_tokens_are_reported(monkeypatch):
    monkeypatch.delenv("KEY_OF_THE_TEST", raising=False)
    with pytest.raises(ConfigError, match="KEY_OF_THE_TEST is not set"):
        EndpointEmbedder("http://127.0.0.1:9/v1", "m", "KEY_OF_THE_TEST").embed(["a"])
    with pytest.raises(ConfigError, match="max_tokens"):
        EndpointEmbedder("http://127.0.0.1:9/v1", "m", max_tokens=0)
