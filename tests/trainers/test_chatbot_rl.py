"""The chatbot's RL: equal to TRL's own trainer where that applies, otherwise to the loss worked by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlenv.core.adapters import adapter_at, folder_digest
from rlenv.core.errors import ConfigError, PhaseError
from rlenv.core.progress import Progress, read_progress
from rlenv.learning.credit import CreditConfig
from rlenv.learning.rows import training_rows
from tests.trainers.toy_rollouts import ToyRollouts
from trainers.backend.config import TrainResources
from trainers.backend.worker import Worker
from trainers.chatbot_rl.adapter_versions import AdapterVersions
from trainers.chatbot_rl.config import ChatbotRlConfig
from trainers.chatbot_rl.fit import fit_chatbot, make_trainer, rl_arguments, sampler_kl, train_chatbot
from trainers.chatbot_rl.rounds import trl_batch

TURNS = CreditConfig(level="turn", estimator="rloo", scale="none")
FAST = ChatbotRlConfig(
    dtype="float32",
    num_rounds=2,
    num_groups=4,
    group_size=4,
    batch_size=4,
    gradient_accumulation=4,
    learning_rate=2e-2,
    save_every=0,
)


@pytest.fixture(scope="module")
def start(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter that is not the bare base model."""
    torch.manual_seed(3)
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "up_proj", "down_proj"])
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(tiny_llama), lora)
    nudge(model, 3)
    folder = tmp_path_factory.mktemp("start")
    model.save_pretrained(folder)
    return folder


def nudge(model, seed: int) -> None:
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B.default" in name:
                parameter.add_(torch.randn_like(parameter) * 0.05)


def of_default(model, gradient: bool = False) -> dict[str, torch.Tensor]:
    return {n: (p.grad if gradient else p.detach()).clone() for n, p in model.named_parameters() if ".default." in n}


@pytest.fixture
def decided_llama(tiny_llama: Path, tmp_path: Path) -> Path:
    """The tiny Llama with a larger head: with its own, all tokens are about equally likely whatever it reads."""
    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    with torch.no_grad():
        model.lm_head.weight.mul_(30)
    model.save_pretrained(tmp_path / "decided")
    AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(tmp_path / "decided")
    return tmp_path / "decided"


def test_the_reward_rises_and_every_round_has_a_folder_of_its_own(decided_llama, start, scratch) -> None:
    config = replace(FAST, num_rounds=15, group_size=8, batch_size=8, credit=TURNS, beta=0.001, max_staleness=20)
    progress = scratch / "progress.jsonl"
    toy = ToyRollouts(str(decided_llama), group_size=8, failures=1)
    payload = (toy, config, str(decided_llama), str(start), str(scratch / "out"))
    summary = train_chatbot(payload, Worker(scratch, Progress(str(progress), "rl")))
    assert summary["reward_last"] > summary["reward_first"] + 0.2
    assert (summary["num_updates"], summary["num_conversations"], summary["num_failed"]) == (15, 15 * 31, 15)
    assert summary["trained_tokens"] == 15 * 31 * 8
    assert summary["kl_last"] > 0
    assert summary["sampler_gap_max"] < 1e-4 and abs(summary["sampler_kl"]) < 1e-6
    folders = sorted(p.name for p in (scratch / "versions").iterdir())
    assert [name.rsplit("-", 1)[0] for name in folders] == [f"round-{i:05d}" for i in range(15)]
    lines = read_progress(progress)
    assert [line["step"] for line in lines] == list(range(1, 16))
    expected = {
        "reward", "reward_parts/liked", "rollouts/turns_mean", "completions/mean_length", "kl", "sampling/kl",
        "sampling/sampling_logp_difference/mean", "rollouts/trained_tokens", "rollouts/seconds", "step_time",
        "rollouts/staleness_max", "rollouts/failed",
    }  # fmt: skip
    assert expected <= set(lines[0])
    assert adapter_at(scratch / "out", "new").digest != adapter_at(start, "start").digest


@pytest.mark.parametrize("scale", ("group", "batch"))
def test_with_one_advantage_a_session_a_run_is_that_of_trls_own_trainer(tiny_llama, start, scratch, scale) -> None:
    """Two rounds of two passes, with a conversation that failed: clipping, KL to the start and fillers included."""
    from trl import GRPOTrainer

    config = replace(FAST, credit=CreditConfig(scale=scale), sampler_correction="none", epochs=2)
    arguments = rl_arguments(Worker(scratch), config)
    arguments.optim, arguments.learning_rate = "sgd", 1.0  # Adam would make much of the smallest gradients' signs
    trainer = make_trainer(
        ToyRollouts(str(tiny_llama), failures=1), config, str(tiny_llama), str(start), Worker(scratch), args=arguments
    )
    trainer.train()
    before = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_llama), str(start), is_trainable=True)
    trl_trainer = GRPOTrainer(
        model=PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(tiny_llama), str(start), is_trainable=True
        ),
        reward_funcs=trainer.reward_funcs,
        args=arguments,
        train_dataset=trainer.train_dataset,
        processing_class=trainer.processing_class,
        rollout_func=trainer.rollout_func,
    )
    trl_trainer.train()
    old, one, other = of_default(before), of_default(trainer.model), of_default(trl_trainer.model)
    assert max(float((one[n] - old[n]).abs().max()) for n in one) > 1e-2
    for name, value in one.items():
        assert torch.allclose(value, other[name], atol=1e-5), name
    for own_log, trl_log in zip(trainer.state.log_history[:4], trl_trainer.state.log_history[:4], strict=True):
        for key in ("loss", "kl", "grad_norm"):
            assert own_log[key] == pytest.approx(trl_log[key], rel=1e-3, abs=1e-6)


def log_probs(model, row) -> torch.Tensor:
    """log pi of a conversation's tokens, the slow way: one sequence, no mask, no padding. [C]"""
    ids = torch.tensor([[*row.prompt_ids, *row.completion_ids]])
    found = model(input_ids=ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
    return found[len(row.prompt_ids) - 1 :]


def loss_by_hand(config: ChatbotRlConfig, rows, new, old, ref) -> torch.Tensor:
    """The loss of one step on a whole round, conversation by conversation, over own tokens alone.

    new, old, ref: log-probs of each row's tokens under the policy, the policy that sampled, and the start.
    """
    sums, counts = [], []
    for row, now, then, first in zip(rows, new, old, ref, strict=True):
        own = torch.tensor(row.mask).bool()
        advantage, sampled = torch.tensor(row.advantages)[own], torch.tensor(row.logprobs)[own]
        now, then, first = now[own], then[own], first[own]
        log_ratio = (now - then).mean() if config.importance_sampling_level == "sequence" else now - then
        ratio = log_ratio.exp()
        clipped = ratio.clamp(1 - config.epsilon, 1 + config.epsilon_high)
        surrogate = torch.minimum(ratio * advantage, clipped * advantage)
        gap = then - sampled
        importance = (gap.sum() if "sequence" in config.sampler_correction else gap).exp()
        if config.sampler_correction == "none":
            importance = torch.ones(())
        elif "mask" in config.sampler_correction:
            importance = torch.where(importance > config.sampler_cap, 0.0, importance)
        else:
            importance = importance.clamp(max=config.sampler_cap)
        k3 = (first - now).exp() - (first - now) - 1
        sums.append((-importance * surrogate + config.beta * ratio * k3).sum())
        counts.append(int(own.sum()))
    if config.loss_type == "grpo":  # a conversation that failed has its place, and a loss of 0
        means = [total / count for total, count in zip(sums, counts, strict=True)]
        return sum(means) / (config.num_groups * config.group_size)
    if config.loss_type == "dr_grpo":
        return sum(sums) / (config.num_groups * config.group_size * config.max_tokens)
    return sum(sums) / sum(counts)


@pytest.mark.parametrize(
    "changes",
    (
        {"sampler_correction": "token_truncate", "sampler_cap": 1.2},
        {
            "loss_type": "grpo",
            "importance_sampling_level": "sequence",
            "sampler_correction": "sequence_mask",
            "sampler_cap": 1.05,
        },
        {"loss_type": "dr_grpo", "sampler_correction": "none", "max_tokens": 7, "beta": 0.0},
        {"loss_type": "bnpo", "sampler_correction": "sequence_truncate", "epsilon": 0.02, "epsilon_high": 0.05},
    ),
    ids=lambda c: "-".join(str(v) for v in c.values()),
)
def test_loss_and_gradient_are_those_worked_by_hand_and_a_users_token_has_none(
    tiny_llama, start, scratch, changes
) -> None:
    config = replace(FAST, credit=TURNS, batch_size=16, gradient_accumulation=1, beta=0.3)
    config = replace(config, **changes)
    toy = ToyRollouts(str(tiny_llama), failures=1, noise=0.4)
    trainer = make_trainer(toy, config, str(tiny_llama), str(start), Worker(scratch))
    trainer.current_gradient_accumulation_steps = 1
    trainer.model.train()
    nudge(trainer.model, 1)  # the policy that samples is not the start
    groups: list = []

    class Listening:
        def __call__(self, number, folder):
            groups.extend(toy(number, folder))
            return groups

    trainer.rollout_func.rollouts = Listening()
    inputs = trainer._prepare_inputs(next(iter(trainer.get_train_dataloader())))
    rows, _ = training_rows(groups, config.credit)
    first = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_llama), str(start))
    with torch.no_grad():
        old = [log_probs(trainer.model, row) for row in rows]
        ref = [log_probs(first, row) for row in rows]
    nudge(trainer.model, 2)  # and the one that learns is a step further

    seen = []
    scored = trainer._get_per_token_logps_and_entropies

    def keep(*args, **kwargs):
        found = scored(*args, **kwargs)
        found[0].retain_grad()
        seen.append(found[0])
        return found

    trainer._get_per_token_logps_and_entropies = keep
    loss = trainer.compute_loss(trainer.model, inputs)
    loss.backward()
    gradient = of_default(trainer.model, gradient=True)
    trained = (inputs["tool_mask"] * inputs["completion_mask"]).bool()
    assert torch.all(seen[0].grad[~trained] == 0) and torch.all(inputs["advantages"][~trained] == 0)
    # 15 conversations of 8 own and 3 of the user's tokens, and one token in place of the one that failed
    assert int(trained.sum()) == 15 * 8 and int((~trained & inputs["completion_mask"].bool()).sum()) == 15 * 3 + 1
    assert (seen[0].grad[trained] != 0).any()

    trainer.model.zero_grad()
    by_hand = loss_by_hand(config, rows, [log_probs(trainer.model, row) for row in rows], old, ref)
    by_hand.backward()
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-4, abs=1e-6)
    largest = max(float(g.abs().max()) for g in gradient.values())
    for name, value in of_default(trainer.model, gradient=True).items():
        assert torch.allclose(gradient[name], value, atol=1e-4 * largest), name


def test_the_reference_is_the_starting_adapter_and_stays_so(tiny_llama, start, scratch) -> None:
    trainer = make_trainer(ToyRollouts(str(tiny_llama)), FAST, str(tiny_llama), str(start), Worker(scratch))
    assert trainer.ref_model is None and set(trainer.model.peft_config) == {"default", "ref"}
    before = {n: p.detach().clone() for n, p in trainer.model.named_parameters()}
    trainer.train()
    moved = {n for n, p in trainer.model.named_parameters() if not torch.equal(before[n], p)}
    assert moved and all(".default." in n for n in moved)
    distances = [entry["kl"] for entry in trainer.state.log_history[:2]]
    assert abs(distances[0]) < 1e-6 and distances[1] > 1e-5


def test_a_killed_run_resumes_to_the_same_result(tiny_llama, start, tmp_path, scratch, die_and_go_on) -> None:
    """Dies in round 5, after the checkpoint of round 3: rounds 4 and 5 are repeated with the same adapters."""
    config = replace(FAST, num_rounds=6, gradient_accumulation=2, save_every=2, credit=TURNS, max_staleness=9)
    twin = Worker(tmp_path / "twin_scratch")
    twin.scratch.mkdir()

    def payload(name):
        return ToyRollouts(str(tiny_llama)), config, str(tiny_llama), str(start), str(tmp_path / name)

    one, other = die_and_go_on(train_chatbot, payload("out"), 11), train_chatbot(payload("twin"), twin)
    del one["rollout_seconds"], other["rollout_seconds"]
    assert one == pytest.approx(other)
    assert folder_digest(tmp_path / "out") == folder_digest(tmp_path / "twin")
    names = [sorted(p.name for p in (folder / "versions").iterdir()) for folder in (scratch, twin.scratch)]
    assert names[0] == names[1] and len(names[0]) == 6


def test_conversations_of_an_old_adapter_are_left_out_and_those_of_an_unknown_one_refused(
    tiny_llama, start, scratch, tmp_path
) -> None:
    toy = ToyRollouts(str(tiny_llama), adapter_folder=str(start))
    payload = (toy, replace(FAST, max_staleness=1, num_rounds=3), str(tiny_llama), str(start), str(tmp_path / "out"))
    progress = scratch / "progress.jsonl"
    with pytest.raises(PhaseError, match="round 2: no conversation to learn from; of 16, 16 were sampled by adapters"):
        train_chatbot(payload, Worker(scratch, Progress(str(progress), "rl")))
    assert [line["rollouts/staleness_max"] for line in read_progress(progress)] == [0, 1]
    versions = AdapterVersions(tmp_path, "aaaa")
    assert versions.number_of("aaaa") == 0
    for digest, message in (("bbbb", "adapter bbbb, which is not a version of this run"), (None, "without an adapter")):
        with pytest.raises(PhaseError, match=message):
            versions.number_of(digest)


def test_failed_conversations_become_masked_rows_in_their_groups(tiny_llama, start) -> None:
    groups = ToyRollouts(str(tiny_llama), num_groups=3, failures=2, adapter_folder=str(start))(0, "")
    groups[1] = groups[1].model_copy(update={"trajectories": groups[1].trajectories[:1]})
    rows, counts = training_rows(groups, TURNS)
    batch = trl_batch(rows, groups, (4, 4), filler=2)
    returns = [row.reward for row in rows]
    assert batch["conversation_return"] == [*returns[:2], *[None] * 6, *returns[2:], *[None] * 4]
    assert counts["lone_groups"] == 1 and counts["failed"] == 2
    empty = [i for i, value in enumerate(batch["conversation_return"]) if value is None]
    assert all(batch["completion_ids"][i] == [2] and batch["env_mask"][i] == [0] for i in empty)


def test_the_kl_of_sampler_and_learner_by_hand() -> None:
    learner, sampler = torch.tensor([[-1.0, -2.0, -9.0]]), torch.tensor([[-1.5, float("nan"), 0.0]])
    total, count = sampler_kl(learner, sampler, torch.tensor([[1, 1, 0]])).tolist()
    assert (total, count) == (pytest.approx(2.718281828**0.5 - 1 - 0.5), 1)


def test_settings_that_do_not_fit_are_refused() -> None:
    assert replace(FAST, epochs=3, batch_size=2).updates_per_round() == 6
    with pytest.raises(ConfigError, match=r"a round has 4 x 4 = 16 conversations.*= 32; expected a divisor of 16"):
        FAST.updates_per_round(num_workers=2)
    with pytest.raises(ConfigError, match=r"group_size: expected 2 or more, got 1\n.*epochs: expected a whole number"):
        replace(FAST, group_size=1, epochs=1.5)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_two_workers_share_a_round(tiny_llama, start, tmp_path) -> None:
    config = replace(FAST, num_rounds=3, gradient_accumulation=2)
    result = fit_chatbot(
        adapter_at(start, "sft"),
        ToyRollouts(str(tiny_llama)),
        config,
        tiny_llama,
        tmp_path / "rl",
        "rl",
        resources=TrainResources(num_workers=2, num_cpus=1, threads=1),
    )
    assert (result.num_rounds, result.num_updates, result.num_conversations) == (3, 3, 48)
    assert result.adapter.digest == adapter_at(tmp_path / "rl", "rl").digest
    assert result.sampler_gap_max < 1e-4
