"""One suite over every implementation of ``rlenv.core.protocols.Engine``: transformers in-process, vLLM in a pool."""

from __future__ import annotations

import asyncio
import random

import pytest

from actors.engines.config import EngineConfig
from actors.engines.transformers_engine import TransformersEngine
from actors.pool import EnginePool
from rlenv.core.errors import ConfigError, OverlongError
from rlenv.core.types import Adapter, Sampling

PROMPT = list(range(10, 40))


def run(*requests):
    """Runs the requests at once and returns their replies."""

    async def all_of_them():
        return await asyncio.gather(*requests)

    return asyncio.run(all_of_them())


@pytest.fixture(scope="module", params=["transformers", pytest.param("vllm", marks=pytest.mark.vllm)])
def engine(request, tiny, tmp_path_factory):
    config = EngineConfig(
        model=tiny[0], backend=request.param, dtype="float32", max_model_len=3000, max_num_seqs=16, kv_cache_gib=0.25,
        log_dir=str(tmp_path_factory.mktemp("logs")),
    )  # fmt: skip
    if request.param == "transformers":
        inside = TransformersEngine(config)
        asyncio.run(inside.start())
        yield inside
        inside.close()
    else:
        request.getfixturevalue("cluster")
        with EnginePool(config) as pool:
            yield pool


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
