"""TRL's unmodified GRPOTrainer takes a step through the env, on the sampled tokens and not on the user's."""

from __future__ import annotations

import asyncio
import copy
from types import SimpleNamespace

import pytest

from launch.serving.trl import ModuleEngine, TrlRollouts, env_prompts, env_reward, in_process
from rlenv.core.errors import ConfigError, EngineError
from rlenv.core.types import Sampling, SessionContext
from rlenv.env.conversation import Limits
from rlenv.env.core import ConversationCore, Scenario
from rlenv.speakers.scripted import LINES, ScriptedUser

SCENARIOS = [
    Scenario(context_id=f"c{i}", user_id=f"u{i}", context=SessionContext(profile="low"), split=("a", "b")[i % 2])
    for i in range(4)
]


async def letters(before, after) -> dict[str, float]:
    """A reward that differs from episode to episode: the letters of the agent's message."""
    said = after.turns[len(before.turns)].utterance.text if len(after.turns) > len(before.turns) else ""
    return {"letters": float(sum(c.isalpha() for c in said))}


def env(users=None) -> ConversationCore:
    users = users or {"one": ScriptedUser("one", leave_rate=0.1), "two": ScriptedUser("two", leave_rate=0.1)}
    return ConversationCore(SCENARIOS, users, "chatbot", Limits(max_turns=4), letters)


@pytest.fixture(scope="module")
def parts(tiny_llama):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    tokenizer.pad_token = tokenizer.pad_token or "<|endoftext|>"
    return model, tokenizer


def stand_in_for_a_trainer(parts, temperature=1.0) -> SimpleNamespace:
    model, tokenizer = parts
    return SimpleNamespace(
        model=model,
        processing_class=tokenizer,
        args=SimpleNamespace(temperature=temperature),
        state=SimpleNamespace(global_step=0),
        accelerator=SimpleNamespace(unwrap_model=lambda m: m, process_index=0),
    )


def test_a_grpo_step_of_the_unmodified_trainer_trains_only_on_the_models_tokens(parts, tmp_path):
    import torch
    from trl import GRPOConfig, GRPOTrainer

    model, tokenizer = copy.deepcopy(parts[0]), parts[1]
    before = copy.deepcopy(model)
    rollouts = TrlRollouts(env(), in_process(lambda c: f"A {c.profile} person.", max_tokens=8))
    seen: dict = {}
    batches: list[tuple[torch.Tensor, torch.Tensor]] = []
    gradients: list[torch.Tensor] = []

    def recorded(prompts, trainer):
        seen.update(rollouts(prompts, trainer), prompts=prompts)
        return {k: v for k, v in seen.items() if k != "prompts"}

    config = GRPOConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=4, num_generations=4, max_steps=1, learning_rate=1e-2,
        use_cpu=True, bf16=False, report_to=[], save_strategy="no", gradient_checkpointing=False,
    )  # fmt: skip
    trainer = GRPOTrainer(
        model, env_reward, args=config, train_dataset=env_prompts(env()), processing_class=tokenizer,
        rollout_func=recorded,
    )  # fmt: skip

    def keep_batch(_module, _args, given):
        if torch.is_grad_enabled():
            batches.append((given["input_ids"].clone(), given["attention_mask"].bool()))

    def keep_gradient(_module, _args, hidden):  # TRL multiplies by the head's weights itself: no logits to hook
        if hidden.requires_grad:
            hidden.register_hook(lambda gradient: gradients.append(gradient.clone()))

    model.register_forward_pre_hook(keep_batch, with_kwargs=True)
    model.model.norm.register_forward_hook(keep_gradient)
    trainer.train()

    assert len(set(seen["prompts"])) == 1 and len(seen["env_return"]) == 4  # one group
    assert len(set(seen["env_return"])) > 1
    mean = sum(seen["env_return"]) / 4
    ((ids, there),), (gradient,) = batches, gradients
    in_batch = [ids[i][there[i]].tolist() for i in range(4)]  # TRL shuffles and pads
    for row in range(4):
        prompt, completion = seen["prompt_ids"][row], seen["completion_ids"][row]
        place = in_batch.index(prompt + completion)
        # A position's last state bears on the next token alone.
        norms = gradient[place][there[place]].norm(dim=-1)[len(prompt) - 1 : -1]
        mask, logprobs = torch.tensor(seen["env_mask"][row]), torch.tensor(seen["logprobs"][row])
        assert 0 < mask.sum() < len(mask)  # the user spoke in between
        theirs = tokenizer.decode([t for t, own in zip(completion, mask, strict=True) if not own])
        assert any(line in theirs for line in LINES["user"])
        assert (norms[mask == 0] == 0).all()
        if seen["env_return"][row] != mean:
            assert (norms[mask == 1] > 0).all()
        with torch.no_grad():
            logits = before(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
        expected = logits.log_softmax(-1).gather(1, torch.tensor(completion)[:, None])[:, 0]
        assert torch.allclose(logprobs[mask == 1], expected[mask == 1], atol=1e-4)
        assert (logprobs[mask == 0] == 0).all()
    assert any(not torch.equal(a, b) for a, b in zip(model.parameters(), before.parameters(), strict=True))


def test_a_group_has_one_counterpart_and_a_different_seed_per_episode(parts):
    staying = {name: ScriptedUser(name, leave_rate=0) for name in ("one", "two")}
    rollouts = TrlRollouts(env(staying), in_process(lambda c: "", max_tokens=6))
    trainer = stand_in_for_a_trainer(parts)
    episodes = [rollouts._episode(p, i, trainer) for i, p in enumerate(["c0"] * 4 + ["c1"] * 4 + ["c2"] * 4)]
    assert all(len({e.counterpart for e in episodes[k : k + 4]}) == 1 for k in (0, 4, 8))
    assert len({e.seed for e in episodes}) == 12
    one, two = rollouts(["c0", "c0"], trainer), rollouts(["c0", "c0"], trainer)
    assert one == two and one["completion_ids"][0] != one["completion_ids"][1]
    trainer.state.global_step = 1
    assert rollouts(["c0", "c0"], trainer) != one


def test_a_failed_episode_has_no_reward_and_not_a_reward_of_zero(parts):
    broken = ScriptedUser("one", leave_rate=0, fails=lambda s: EngineError("gone") if s.seed % 2 and s.turns else None)
    rollouts = TrlRollouts(env({"one": broken}), in_process(lambda c: "", max_tokens=6))
    found = rollouts(["c0"] * 8, stand_in_for_a_trainer(parts))
    failed = [i for i, value in enumerate(found["env_return"]) if value is None]
    assert 0 < len(failed) < 8
    assert all(found["env_mask"][i] == [0] and len(found["completion_ids"][i]) == 1 for i in failed)
    assert env_reward([None] * 8, **{k: v for k, v in found.items()}) == found["env_return"]


def test_prompts_are_the_contexts_of_a_split_and_mistakes_are_reported(parts):
    assert env_prompts(env())["prompt"] == ["c0", "c1", "c2", "c3"]
    assert env_prompts(env(), "b")["prompt"] == ["c1", "c3"]
    with pytest.raises(ConfigError, match="'c'"):
        env_prompts(env(), "c")
    cold = in_process(lambda c: "", max_tokens=6)(stand_in_for_a_trainer(parts, 0.5), "chatbot")
    rollouts = TrlRollouts(env(), lambda *_: cold)
    with pytest.raises(ConfigError, match=r"temperature 0\.5 and the trainer computes log-probs at 1\.0"):
        rollouts(["c0"], stand_in_for_a_trainer(parts))


def test_the_engine_of_a_model_keeps_its_training_mode_and_its_position_limit(parts):
    from rlenv.core.errors import OverlongError

    model = parts[0].train()
    said = asyncio.run(ModuleEngine(model).generate([5, 6, 7], Sampling(max_tokens=9, seed=3)))
    assert model.training and len(said.token_ids) == len(said.logprobs) == 9 and said.finish_reason == "length"
    with pytest.raises(OverlongError, match="3 tokens"):
        asyncio.run(ModuleEngine(model, 10).generate([5, 6, 7], Sampling(max_tokens=9)))
