"""The env on real vLLM: equal seeds give equal conversations, and a fork continues like its conversation."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from actors.engines.config import EngineConfig
from actors.pool import EnginePool
from rlenv.core.types import Sampling, SessionContext
from rlenv.env.conversation import Limits
from rlenv.env.gym import ConversationEnv
from rlenv.env.scenarios import Scenario
from rlenv.prompting.chat_format import chat_format
from rlenv.speakers.engine import EngineSpeaker

pytestmark = [pytest.mark.vllm, pytest.mark.ray, pytest.mark.slow]

SCENARIOS = [Scenario(context_id=n, user_id=n, context=SessionContext(profile=n)) for n in ("ann", "bob")]
SAID = ("What brings you here?", "How long has it been so?", "I see.", "What helps?")


@pytest.fixture(scope="module")
def wide_llama(tiny_shape, tmp_path_factory) -> Path:
    """A random chat model with heads of width 32, the least that vLLM's attention takes on a CPU."""
    import torch

    from trainers.pretrain.loop import new_llama, train_tokenizer

    torch.manual_seed(0)
    tokenizer = train_tokenizer(["user assistant system a few plain words to learn merges from"], 320, 1024)
    folder = tmp_path_factory.mktemp("wide_llama")
    new_llama(replace(tiny_shape, hidden_size=64, max_positions=1024), chat_format(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def pool(folder: Path) -> EnginePool:
    return EnginePool(
        EngineConfig(
            model=str(folder), dtype="float32", max_model_len=1024, max_num_seqs=8, kv_cache_gib=0.25, num_cpus=0.5,
            max_loras=0, log_dir=str(folder / "logs"),
        )
    )  # fmt: skip


def env_on(engine: EnginePool, folder: Path) -> ConversationEnv:
    from transformers import AutoTokenizer

    chat = chat_format(AutoTokenizer.from_pretrained(folder))
    user = EngineSpeaker("model", engine, chat, "user", lambda c: f"You are {c.profile}.", Sampling(max_tokens=10))
    return ConversationEnv(scenarios=SCENARIOS, counterparts={"model": user}, limits=Limits(max_turns=6))


def go_on(env: ConversationEnv, said=SAID) -> list[tuple[int, ...]]:
    """Says the lines in order; returns the ids of every message there is then, as they were sampled."""
    for line in said:
        if env.core.over:
            break
        env.step(line)
    return [turn.utterance.token_ids for turn in env.core.state.turns]


@pytest.fixture(scope="module")
def env(wide_llama, cluster):
    with pool(wide_llama) as engine:
        yield env_on(engine, wide_llama)


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
def test_a_snapshot_continues_equally_in_another_engine(env, wide_llama) -> None:
    begun(env)
    snapshot = json.loads(json.dumps(env.snapshot()))
    original = go_on(env, SAID[2:])
    with pool(wide_llama) as second:
        elsewhere = env_on(second, wide_llama)
        elsewhere.restore(snapshot)
        assert go_on(elsewhere, SAID[2:]) == original
    env.restore(snapshot)
    assert go_on(env, SAID[2:]) == original
