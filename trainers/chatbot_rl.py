"""The chatbot learns from conversations with simulated users: GRPO or RLOO, by session or by turn, from an SFT start.

TRL's ``GRPOTrainer`` on conversations that are held elsewhere (``trainers.conversation_rounds``). The loss is TRL's:
PPO's clipping, KL to the starting adapter (a frozen copy of it, as in ``trainers.dpo``), and a capped correction for
the sampler, whose log-probs are not quite the learner's. The subclass adds what TRL has no place for: an advantage for
each token, and that correction where the sampler is not TRL's own vLLM.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rlenv.adapters import adapter_at
from rlenv.credit import CreditConfig
from rlenv.errors import ConfigError
from rlenv.types import Adapter
from trainers.conversation_rounds import ConversationRounds, Rollouts, conversation_return
from trainers.huggingface import (
    AdapterTraining,
    callbacks,
    load_base,
    save_adapter,
    train_and_resume,
    training_arguments,
)
from trainers.ray_train import Worker, new_folder, run_training, seed_everything
from trainers.resources import TrainResources


@dataclass(frozen=True)
class ChatbotRlConfig(AdapterTraining):
    """Reinforcement learning on conversations. Loss settings are TRL's by other names; so are most defaults."""

    section = "chatbot_rl"

    num_rounds: int = 20
    """Rounds of conversations, each sampled by the adapter as it is then."""
    num_groups: int = 8
    """Groups a round: contexts with their persona."""
    group_size: int = 8
    """Conversations a group."""
    credit: CreditConfig = CreditConfig()
    temperature: float = 1.0
    """The sampler's. Its other settings (top_p, top_k) should leave the distribution whole."""
    loss_type: Literal["dapo", "grpo", "bnpo", "dr_grpo"] = "dapo"
    """How token losses are averaged: over the round's tokens, over conversations of token means, over the batch's
    tokens, or by the constant ``max_tokens``."""
    max_tokens: int = 512
    """The constant of dr_grpo: tokens of a conversation, as a unit of the learning rate."""
    clip_low: float = 0.2
    clip_high: float = 0.2
    """The probability ratio to the round's first step is clipped to 1 - clip_low ... 1 + clip_high."""
    ratio: Literal["token", "sequence"] = "token"
    """Ratio of each token, or of the conversation as a geometric mean (GSPO)."""
    beta: float = 0.04
    """Of the KL divergence to the starting adapter; 0 leaves it and its adapter out."""
    sampler_correction: Literal["token_truncate", "token_mask", "sequence_truncate", "sequence_mask", "none"] = (
        "token_truncate"
    )
    """Importance weights of learner over sampler, for each token or conversation, capped or set to 0 above the cap."""
    sampler_cap: float = 2.0
    max_staleness: int = 0
    """Rounds between the adapter that sampled a conversation and the learner; older ones are left out and counted."""

    epochs: float = 1.0
    """Passes over each round's conversations, a whole number."""
    batch_size: int = 4
    gradient_accumulation: int = 16
    learning_rate: float = 1e-5
    save_every: int = 5
    """Rounds between checkpoints to resume from; 0 is never."""

    def problems(self) -> list[str]:
        """Returns what is wrong with the settings."""
        problems = super().problems()
        problems += [
            f"{field}: expected {least} or more, got {getattr(self, field)}"
            for field, least in (("num_rounds", 1), ("num_groups", 1), ("group_size", 2), ("max_staleness", 0))
            if getattr(self, field) < least
        ]
        problems += [
            f"{field}: expected above 0, got {getattr(self, field)}"
            for field in ("temperature", "clip_low", "clip_high", "sampler_cap", "max_tokens")
            if getattr(self, field) <= 0
        ]
        if self.beta < 0:
            problems.append(f"beta: expected 0 or more, got {self.beta}")
        if self.epochs != int(self.epochs):
            problems.append(f"epochs: expected a whole number, got {self.epochs}")
        if self.shard:
            problems.append("shard: sharded models are not supported here")
        return problems

    def updates_per_round(self, num_workers: int = 1) -> int:
        """Returns the optimizer steps of a round.

        Raises:
            ConfigError: a round's conversations do not divide into steps.
        """
        conversations, step = self.num_groups * self.group_size, self.batch_size * self.gradient_accumulation
        if conversations % (step * num_workers):
            raise ConfigError(
                f"{self.section}: a round has {self.num_groups} x {self.group_size} = {conversations} conversations, a "
                f"step batch_size x gradient_accumulation x workers = {step * num_workers}; expected a divisor of "
                f"{conversations}"
            )
        return int(self.epochs) * conversations // (step * num_workers)


@dataclass(frozen=True)
class ChatbotRlResult:
    """The new adapter and how its training went; means over the first and the last tenth of the rounds."""

    adapter: Adapter
    num_rounds: int
    num_updates: int
    num_conversations: int
    """That were learnt from."""
    num_failed: int
    """Episodes that failed, and were left out."""
    trained_tokens: int
    reward_first: float
    reward_last: float
    kl_last: float | None
    """To the starting adapter, estimated by k3; None where beta is 0."""
    sampler_gap_mean: float
    """Of |learner's log-prob - sampler's|, over all rounds."""
    sampler_gap_max: float
    sampler_kl: float
    """KL of sampler to learner, estimated by k3, over all rounds."""
    rollout_seconds: float


def fit_chatbot(
    start: Adapter,
    rollouts: Rollouts,
    config: ChatbotRlConfig,
    base_model: str | Path,
    out_dir: str | Path,
    name: str,
    *,
    resources: TrainResources = TrainResources(),
    storage_path: str | Path | None = None,
    progress_path: str | Path | None = None,
) -> ChatbotRlResult:
    """Returns the adapter after ``num_rounds`` rounds, written to ``out_dir`` (which must not exist).

    Args:
        start: the chatbot to begin as and to be held to, from SFT.
        rollouts: who holds the conversations; called on rank 0.
        config: hyper-parameters.
        base_model: the folder that ``start`` was trained on.
        out_dir: the adapter's folder; appears whole or not at all.
        name: the new version's name.
        resources: the workers.
        storage_path: checkpoints, logs and the rounds' adapters; None is beside ``out_dir``. Samplers must see it.
        progress_path: progress lines are appended here.

    Raises:
        ConfigError: a round does not divide into steps.
        PhaseError: training failed.
    """
    config.updates_per_round(resources.num_workers)
    storage = Path(storage_path) if storage_path else Path(out_dir).resolve().parent
    with new_folder(out_dir) as folder:
        payload = (rollouts, config, str(base_model), start.path, str(folder))
        summary = run_training(
            train_chatbot, payload, resources, storage, f"chatbot-rl-{Path(out_dir).name}", progress_path=progress_path
        )
    return ChatbotRlResult(adapter=adapter_at(out_dir, name), **summary)


def conversation_trainer() -> Any:
    """Returns TRL's ``GRPOTrainer`` with an advantage for each token and a sampler outside of it."""
    import torch
    from trl import GRPOTrainer
    from trl.trainer.utils import pad

    class ConversationTrainer(GRPOTrainer):
        """Takes ``token_advantages`` from its ``rollout_func``.

        Args:
            correct_sampler: weigh tokens by learner over sampler; the gap between the two is measured in any case.
        """

        def __init__(self, *args: Any, correct_sampler: bool = True, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.correct_sampler = correct_sampler
            self.use_vllm = True  # for TRL there is a sampler to correct only where it runs vLLM itself

        def _generate(self, prompts: list[Any]) -> Any:
            self._last_loaded_step = self.state.global_step  # the sampler has its weights from the round's folder
            return super()._generate(prompts)

        def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
            output = super()._generate_and_score_completions(inputs)
            rows = [torch.tensor(row["token_advantages"], dtype=torch.float32) for row in inputs]
            width: Any = self.pad_to_multiple_of
            advantages = pad(rows, padding_value=0, padding_side="right", pad_to_multiple_of=width)
            output["advantages"] = advantages.to(output["completion_ids"].device)
            mask = output["completion_mask"] * output["tool_mask"]
            gap = sampler_kl(output["old_per_token_logps"], output["sampling_per_token_logps"], mask)
            total, count = self.accelerator.reduce(gap, reduction="sum").tolist()
            self._metrics["train"]["sampling/kl"].append(total / max(count, 1.0))
            if not self.correct_sampler:
                output["importance_sampling_ratio"] = torch.ones_like(output["importance_sampling_ratio"])
            return output

    return ConversationTrainer


def sampler_kl(learner: Any, sampler: Any, mask: Any) -> Any:
    """Returns (sum, number of tokens) of k3 = exp(d) - 1 - d with d = learner - sampler, an estimate of KL(sampler ||
    learner) on the sampler's own tokens.

    Args:
        learner: log-probs, [B, C].
        sampler: log-probs, [B, C]; NaN where the engine had none, which counts nowhere.
        mask: 1 on the tokens that count, [B, C].
    """
    import torch

    mask = mask.bool() & ~torch.isnan(sampler)
    gap = (learner - sampler)[mask]
    return torch.stack([(torch.exp(gap) - 1 - gap).sum(), mask.sum().to(gap.dtype)])


def rl_arguments(worker: Worker, config: ChatbotRlConfig) -> Any:
    """Returns TRL's ``GRPOConfig`` of ``config``."""
    from trl import GRPOConfig

    updates = config.updates_per_round(worker.world_size)
    corrects = config.sampler_correction != "none"
    return GRPOConfig(
        **training_arguments(
            worker,
            config,
            max_steps=config.num_rounds * updates,
            save_steps=config.save_every * updates or 500,
            num_generations=config.group_size,
            generation_batch_size=config.num_groups * config.group_size,
            num_iterations=int(config.epochs),
            max_completion_length=config.max_tokens,
            temperature=config.temperature,
            scale_rewards=config.credit.scale,
            loss_type=config.loss_type,
            epsilon=config.clip_low,
            epsilon_high=config.clip_high,
            importance_sampling_level=config.ratio,
            beta=config.beta,
            vllm_importance_sampling_mode=config.sampler_correction if corrects else "token_truncate",
            vllm_importance_sampling_clip_max=config.sampler_cap,
            disable_dropout=True,
            shuffle_dataset=False,
        )
    )


def make_trainer(
    rollouts: Rollouts, config: ChatbotRlConfig, base_model: str, start: str, worker: Worker, **changes: Any
) -> Any:
    """Returns the trainer of one run, before its first round; ``changes`` replace its arguments."""
    from datasets import Dataset
    from peft import PeftModel
    from transformers import AutoTokenizer

    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # rollout_func may change; the version is pinned
    policy = PeftModel.from_pretrained(load_base(base_model, config.dtype, worker.device), start, is_trainable=True)
    rounds = ConversationRounds(
        rollouts,
        num_groups=config.num_groups,
        group_size=config.group_size,
        updates=config.updates_per_round(worker.world_size),
        credit=config.credit,
        max_staleness=config.max_staleness,
        worker=worker,
        start_digest=adapter_at(start, "start").digest,
    )
    arguments: dict[str, Any] = {
        "model": policy,
        "reward_funcs": conversation_return,
        "args": rl_arguments(worker, config),
        "train_dataset": Dataset.from_dict({"prompt": [""] * config.num_groups}),  # contexts are the rollouts' affair
        "processing_class": AutoTokenizer.from_pretrained(base_model),
        "callbacks": callbacks(worker),
        "rollout_func": rounds,
        "correct_sampler": config.sampler_correction != "none",
    }
    return conversation_trainer()(**arguments | changes)


def train_chatbot(payload: tuple[Rollouts, ChatbotRlConfig, str, str, str], worker: Worker) -> dict[str, Any]:
    """Returns the summary of one run; the adapter is written on rank 0."""
    rollouts, config, base_model, start, out_dir = payload
    seed_everything(config.seed)
    trainer = make_trainer(rollouts, config, base_model, start, worker)
    train_and_resume(trainer, worker)
    save_adapter(trainer, worker, out_dir)
    if worker.rank > 0:  # the rounds' figures are in the first worker's history
        return {}
    return _summary(trainer.state.log_history, config, trainer.state.global_step)


def _summary(history: list[dict[str, Any]], config: ChatbotRlConfig, num_updates: int) -> dict[str, Any]:
    rounds = [entry for entry in history if "rollouts/conversations" in entry]
    some = max(1, len(rounds) // 10)

    def mean(key: str, entries: list[dict[str, Any]]) -> float:
        return float(sum(entry[key] for entry in entries) / len(entries))

    return {
        "num_rounds": config.num_rounds,
        "num_updates": num_updates,
        "num_conversations": int(sum(entry["rollouts/conversations"] for entry in rounds)),
        "num_failed": int(sum(entry["rollouts/failed"] for entry in rounds)),
        "trained_tokens": int(sum(entry["rollouts/trained_tokens"] for entry in rounds)),
        "reward_first": mean("reward", rounds[:some]),
        "reward_last": mean("reward", rounds[-some:]),
        "kl_last": mean("kl", rounds[-some:]) if config.beta else None,
        "sampler_gap_mean": mean("sampling/sampling_logp_difference/mean", rounds),
        "sampler_gap_max": max(float(entry["sampling/sampling_logp_difference/max"]) for entry in rounds),
        "sampler_kl": mean("sampling/kl", rounds),
        "rollout_seconds": float(sum(entry["rollouts/seconds"] for entry in rounds)),
    }
