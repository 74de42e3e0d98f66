"""One suite over every implementation of ``rlenv.core.protocols.Engine``: transformers in-process, vLLM in a pool.
The scripted engine, which has no model, is held to what does not need one.

An env on each engine: equal seeds give equal conversations, and a fork continues like its conversation.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from actors.engines.config import EngineConfig
from actors.engines.scripted_engine import ScriptedBackend
from actors.engines.transformers_engine import TransformersEngine
from actors.pool import EnginePool
from rlenv.core.errors import ConfigError, OverlongError
from rlenv.core.protocols import Engine
from rlenv.core.types import Adapter, Sampling, SessionContext
from rlenv.env.conversation import Limits
from rlenv.env.gym import ConversationEnv
from rlenv.env.scenarios import Scenario
from rlenv.prompting.chat_format import chat_format
from rlenv.speakers.engine import EngineSpeaker

PROMPT = list(range(10, 40))


def run(*requests):
    """Runs the requests at once and returns their replies."""

    async def all_of_them():
        return await asyncio.gather(*requests)

    return asyncio.run(all_of_them())


@contextmanager
def started(backend: str, model: str, folder: Path) -> Iterator[Engine]:
    """Yields a running engine."""
    config = EngineConfig(
        model=model, backend=backend, dtype="float32", max_model_len=3000, max_num_seqs=16, kv_cache_gib=0.25,
        log_dir=str(folder),
    )  # fmt: skip
    if backend != "vllm":
        inside = TransformersEngine(config) if backend == "transformers" else ScriptedBackend(config)
        asyncio.run(inside.start())
        yield inside
        inside.close()
    else:
        with EnginePool(config) as pool:
            yield pool


@pytest.fixture(scope="module", params=["transformers", pytest.param("vllm", marks=pytest.mark.vllm)])
def backend(request):
    if request.param == "vllm":
        request.getfixturevalue("cluster")
    return request.param


@pytest.fixture(scope="module")
def engine(backend, tiny, tmp_path_factory):
    with started(backend, tiny[0], tmp_path_factory.mktemp("logs")) as running:
        yield running


def test_a_request_gives_the_same_tokens_and_logprobs_alone_and_among_others(engine, tiny):
    rng = random.Random(0)
    requests = []
    for i in range(24):
        prompt = [rng.randrange(512) for _ in range(rng.randrange(1, 120))]
        requests.append((prompt, Sampling(max_tokens=rng.randrange(1, 20), seed=i), (None, *tiny[1:])[i % 3]))
    alone = [run(engine.generate(*request))[0] for request in requests]

    async def later(request):
        await asyncio.sleep(rng.random() / 5)
        return await engine.generate(*request)

    picks = [rng.randrange(24) for _ in range(96)]
    for pick, reply in zip(picks, run(*[later(requests[pick]) for pick in picks]), strict=True):
        assert reply.token_ids == alone[pick].token_ids
        assert reply.logprobs == alone[pick].logprobs


def check_each(engine: Engine, adapter: Adapter | None) -> None:
    """Asks for eight replies to a new prompt at once, then for each alone."""
    prompt = [(i * i + 3) % 300 for i in range(200)]
    seeds, sampling = [3, 1, 4, 1, 5, 9, 2, 6], Sampling(max_tokens=12, stop_token_ids=(7, 11, 13))
    (together,) = run(engine.generate_each(prompt, sampling, seeds, adapter, "c"))
    asked = [sampling.model_copy(update={"seed": seed}) for seed in seeds]
    alone = [run(engine.generate(prompt, each, adapter, "c"))[0] for each in asked]
    found, expected = ([(r.token_ids, r.logprobs, r.adapter) for r in replies] for replies in (together, alone))
    assert found == expected and len({tokens for tokens, _, _ in found}) == len(set(seeds))
    assert run(engine.generate_each(prompt, sampling, [], adapter)) == [[]]
    with pytest.raises(OverlongError, match="2990 tokens"):
        run(engine.generate_each([1] * 2990, sampling, seeds, adapter))


def test_one_request_for_many_seeds_gives_what_each_seed_gives_alone(engine, tiny):
    check_each(engine, None)
    check_each(engine, tiny[1])


def test_the_scripted_engine_answers_many_seeds_as_each_alone(tiny, tmp_path):
    with started("scripted", tiny[0], tmp_path) as scripted:
        check_each(scripted, None)


def test_the_prompt_of_many_seeds_is_read_once(engine):
    prompt = [(i * i + 5) % 300 for i in range(160)]  # five blocks of vLLM's cache
    (replies,) = run(engine.generate_each(prompt, Sampling(max_tokens=2), range(8)))
    cached = sorted(reply.cached_tokens for reply in replies)
    assert cached[0] == 0 and all(128 <= tokens <= 160 for tokens in cached[1:])


def test_logprobs_are_those_of_the_model_at_the_temperature_used(engine, tiny):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    (reply,) = run(engine.generate(PROMPT, Sampling(temperature=0.7, max_tokens=12, seed=4), tiny[1]))
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny[0], dtype=torch.float32), tiny[1].path)
    ids = torch.tensor([PROMPT + list(reply.token_ids)])
    with torch.inference_mode():
        logprobs = (model(ids).logits[0, len(PROMPT) - 1 : -1] / 0.7).log_softmax(-1)
    expected = logprobs.gather(1, ids[0, len(PROMPT) :, None])[:, 0]
    assert list(reply.logprobs) == pytest.approx(expected.tolist(), abs=1e-3)


def test_a_stop_token_ends_the_reply_and_is_part_of_it(engine):
    (free,) = run(engine.generate(PROMPT, Sampling(max_tokens=20, seed=1)))
    stop = free.token_ids[7]
    (reply,) = run(engine.generate(PROMPT, Sampling(max_tokens=20, seed=1, stop_token_ids=(stop,))))
    first = free.token_ids.index(stop)
    assert (free.finish_reason, len(free.token_ids), len(free.logprobs)) == ("length", 20, 20)
    assert (reply.finish_reason, reply.token_ids) == ("stop", free.token_ids[: first + 1])


def test_a_new_adapter_version_answers_differently_while_the_old_one_continues(engine, tiny):
    _, old, new = tiny
    sampling = Sampling(max_tokens=16, seed=9)
    base, before = (run(engine.generate(PROMPT, sampling, a))[0].token_ids for a in (None, old))
    mixed = run(*[engine.generate(PROMPT, sampling, a, f"c{i}") for i in range(3) for a in (new, old, None)])
    assert {reply.adapter for reply in mixed[::3]} == {new}
    after = [{reply.token_ids for reply in mixed[k::3]} for k in range(3)]
    assert after[1:] == [{before}, {base}]
    assert len(after[0]) == 1 and after[0].isdisjoint({before, base})


def test_long_prompts_that_come_together_are_all_answered(engine):
    prompts = [[(i * 7 + k) % 512 for i in range(1500)] for k in range(3)]
    alone = [run(engine.generate(p, Sampling(max_tokens=3, seed=2)))[0].token_ids for p in prompts]
    together = run(*[engine.generate([*p, 1], Sampling(max_tokens=3, seed=2)) for p in prompts])
    again = run(*[engine.generate(p, Sampling(max_tokens=3, seed=2)) for p in prompts])
    assert len(together) == 3 and [r.token_ids for r in again] == alone


def test_bad_requests_are_refused_and_the_engine_keeps_running(engine):
    with pytest.raises(OverlongError, match="2990 tokens"):
        run(engine.generate([1] * 2990, Sampling(max_tokens=20)))
    with pytest.raises(ConfigError, match="another model's tokenizer"):
        run(engine.generate([5, 100_000], Sampling(max_tokens=2)))
    missing = Adapter(name="it9", path="/nowhere", digest="9" * 64)
    with pytest.raises(ConfigError, match="it9"):
        run(engine.generate(PROMPT, Sampling(max_tokens=2), missing))
    assert run(engine.generate(PROMPT, Sampling(max_tokens=2)))


# ------------------------------------------------------------------------------------- an env on the engine

SCENARIOS = [Scenario(context_id=n, user_id=n, context=SessionContext(profile=n)) for n in ("ann", "bob")]
SAID = ("What brings you here?", "How long has it been so?", "I see.", "What helps?")


def env_on(engine: Engine, model: str) -> ConversationEnv:
    from transformers import AutoTokenizer

    chat = chat_format(AutoTokenizer.from_pretrained(model))
    user = EngineSpeaker("model", engine, chat, "user", lambda c: f"You are {c.profile}.", Sampling(max_tokens=10))
    return ConversationEnv(scenarios=SCENARIOS, counterparts={"model": user}, limits=Limits(max_turns=6))


@pytest.fixture(scope="module")
def env(engine, tiny):
    return env_on(engine, tiny[0])


def go_on(env: ConversationEnv, said=SAID) -> list[tuple[int, ...]]:
    """Says the lines in order; returns the ids of every message there is then, as they were sampled."""
    for line in said:
        if env.core.over:
            break
        env.step(line)
    return [turn.utterance.token_ids for turn in env.core.state.turns]


def begun(env: ConversationEnv) -> int:
    """Resets to the first seed whose user has not left after two of the agent's messages; returns it."""
    for seed in range(30):
        env.reset(seed=seed)
        go_on(env, SAID[:2])
        if not env.core.over:
            return seed
    raise AssertionError("every user left")


def test_equal_seeds_and_actions_give_equal_tokens_and_other_seeds_others(env) -> None:
    seed = begun(env)
    found = []
    for each in (seed, seed, seed + 1000):
        env.reset(seed=each, options={"context_id": "ann"})
        found.append(go_on(env))
    assert found[0] == found[1] != found[2]
    assert any(found[0])  # sampled ids, not text alone


def test_a_fork_continues_like_its_conversation_and_differs_under_another_seed(env) -> None:
    begun(env)
    before = len(env.core.state.turns)
    same, again, other, twin = env.fork(seeds=[None, None, 5, 5])
    continued = [go_on(fork, SAID[2:]) for fork in (other, same, twin, again)]  # none disturbs another
    original = go_on(env, SAID[2:])
    assert continued[1] == continued[3] == original
    assert continued[0] == continued[2] != original
    assert continued[0][:before] == original[:before]


@pytest.mark.exhaustive
def test_a_snapshot_continues_equally_in_another_engine(env, backend, tiny, tmp_path) -> None:
    begun(env)
    snapshot = json.loads(json.dumps(env.snapshot()))
    original = go_on(env, SAID[2:])
    with started(backend, tiny[0], tmp_path) as second:
        elsewhere = env_on(second, tiny[0])
        elsewhere.restore(snapshot)
        assert go_on(elsewhere, SAID[2:]) == original
    env.restore(snapshot)
    assert go_on(env, SAID[2:]) == original
