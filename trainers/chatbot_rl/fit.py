"""Reinforcement learning of the chatbot on conversations with simulated users: GRPO or RLOO, by session or by turn.

Uses TRL's ``GRPOTrainer`` on conversations that TRL does not generate itself (``trainers.chatbot_rl.rounds``). The loss
is TRL's: PPO's clipping, KL to the starting adapter (a frozen copy, as in ``trainers.dpo``), and a capped
importance-sampling correction, since the sampler's log-probs differ slightly from the learner's. The subclass adds what
TRL does not support: an advantage for each token, and that correction when the sampler is not TRL's own vLLM.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Unpack

from rlenv.core.adapters import adapter_at
from rlenv.core.types import Adapter
from trainers.backend.config import TrainResources
from trainers.backend.fit import TrainOptions, last_tenth_mean, train_to_folder
from trainers.backend.huggingface import callbacks, load_base, save_adapter, train_and_resume, training_arguments
from trainers.backend.worker import Worker, seed_everything
from trainers.chatbot_rl.config import ChatbotRlConfig, ChatbotRlResult
from trainers.chatbot_rl.rounds import ConversationRounds, Rollouts, conversation_return


def fit_chatbot(
    start: Adapter,
    rollouts: Rollouts,
    config: ChatbotRlConfig,
    base_model: str | Path,
    out_dir: str | Path,
    name: str,
    **options: Unpack[TrainOptions],
) -> ChatbotRlResult:
    """Trains for ``num_rounds`` rounds; returns the new adapter, in ``out_dir``, and its training figures.

    Args:
        start: the adapter from SFT that training starts from; it is also the reference of the KL term.
        rollouts: makes a round's conversations; called on rank 0.
        config: hyper-parameters.
        base_model: folder of the model that ``start`` was trained on.
        out_dir: the adapter's folder. It must not exist, and appears only when it is complete.
        name: the new version's name.
        options: see ``TrainOptions``. Each round's adapter is in ``storage_path`` too, where the sampler reads it.

    Raises:
        ConfigError: a round's conversations do not divide evenly into optimizer steps.
        PhaseError: training failed.
    """
    config.updates_per_round(options.get("resources", TrainResources()).num_workers)
    payload = (rollouts, config, str(base_model), start.path)
    summary = train_to_folder(train_chatbot, "chatbot-rl", payload, out_dir, **options)
    return ChatbotRlResult(adapter=adapter_at(out_dir, name), **summary)


def conversation_trainer() -> Any:
    """Returns a subclass of TRL's ``GRPOTrainer`` with an advantage for each token and an external sampler."""
    import torch
    from trl import GRPOTrainer
    from trl.trainer.utils import pad

    class ConversationTrainer(GRPOTrainer):
        """A ``GRPOTrainer`` that takes ``token_advantages`` from its ``rollout_func``.

        Args:
            correct_sampler: weight the loss by the capped ratio of the learner's to the sampler's probability. The KL
                between them is logged in any case.
        """

        def __init__(self, *args: Any, correct_sampler: bool = True, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.correct_sampler = correct_sampler
            self.use_vllm = True  # TRL applies the sampler correction only when it runs vLLM itself

        def _generate(self, prompts: list[Any]) -> Any:
            self._last_loaded_step = self.state.global_step  # TRL must not copy weights to a vLLM of its own
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
    """Returns the tensor [sum of k3, number of tokens]; their ratio estimates KL(sampler || learner).

    k3 = exp(d) - 1 - d with d = learner - sampler, on the tokens that the sampler drew (Schulman's estimator).

    Args:
        learner: log-probs of B conversations of C tokens, [B, C].
        sampler: log-probs, [B, C]; tokens with NaN, for which the engine reported none, are left out.
        mask: 1 on the tokens that count, [B, C].
    """
    import torch

    mask = mask.bool() & ~torch.isnan(sampler)
    gap = (learner - sampler)[mask]
    return torch.stack([(torch.exp(gap) - 1 - gap).sum(), mask.sum().to(gap.dtype)])


def rl_arguments(worker: Worker, config: ChatbotRlConfig) -> Any:
    """Returns TRL's ``GRPOConfig`` for ``config``."""
    from trl import GRPOConfig

    updates = config.updates_per_round(worker.world_size)
    corrects = config.sampler_correction != "none"
    return GRPOConfig(
        **training_arguments(
            worker,
            config,
            max_steps=config.num_rounds * updates,
            save_steps=config.save_every * updates or 500,  # 0 saves none, but the number must be positive
            num_generations=config.group_size,
            generation_batch_size=config.num_groups * config.group_size,
            num_iterations=int(config.epochs),
            max_completion_length=config.max_tokens,
            temperature=config.temperature,
            scale_rewards=config.credit.scale,
            loss_type=config.loss_type,
            epsilon=config.epsilon,
            epsilon_high=config.epsilon_high,
            importance_sampling_level=config.importance_sampling_level,
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
    """Returns a trainer that has not begun to train; ``changes`` replace arguments of ``ConversationTrainer``."""
    from datasets import Dataset
    from peft import PeftModel
    from transformers import AutoTokenizer

    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")  # no warning that rollout_func may change
    base = load_base(base_model, config.dtype, worker.device, config.shard)
    policy = PeftModel.from_pretrained(base, start, is_trainable=True)
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
        "train_dataset": Dataset.from_dict({"prompt": [""] * config.num_groups}),  # rollouts choose the contexts
        "processing_class": AutoTokenizer.from_pretrained(base_model),
        "callbacks": callbacks(worker),
        "rollout_func": rounds,
        "correct_sampler": config.sampler_correction != "none",
    }
    return conversation_trainer()(**arguments | changes)


def train_chatbot(payload: tuple[Rollouts, ChatbotRlConfig, str, str, str], worker: Worker) -> dict[str, Any]:
    """Trains on one worker; returns the fields of ``ChatbotRlResult`` other than ``adapter``, on ranks above 0 none.

    Rank 0 writes the adapter.
    """
    rollouts, config, base_model, start, out_dir = payload
    seed_everything(config.seed)
    trainer = make_trainer(rollouts, config, base_model, start, worker)
    train_and_resume(trainer, worker, config)
    save_adapter(trainer, worker, trainer.processing_class, out_dir)
    if worker.rank > 0:  # only rank 0 logs the rounds' metrics
        return {}
    return _summary(trainer.state.log_history, config, trainer.state.global_step)


def _summary(history: list[dict[str, Any]], config: ChatbotRlConfig, num_updates: int) -> dict[str, Any]:
    rounds = [entry for entry in history if "rollouts/conversations" in entry]

    def values(key: str) -> list[float]:
        return [float(entry[key]) for entry in rounds]

    def mean(key: str) -> float:
        return sum(values(key)) / len(rounds)

    return {
        "num_rounds": config.num_rounds,
        "num_updates": num_updates,
        "num_conversations": int(sum(values("rollouts/conversations"))),
        "num_failed": int(sum(values("rollouts/failed"))),
        "trained_tokens": int(sum(values("rollouts/trained_tokens"))),
        "reward_first": last_tenth_mean(values("reward")[::-1]),
        "reward_last": last_tenth_mean(values("reward")),
        "kl_last": last_tenth_mean(values("kl")) if config.beta else None,
        "sampler_gap_mean": mean("sampling/sampling_logp_difference/mean"),
        "sampler_gap_max": max(values("sampling/sampling_logp_difference/max")),
        "sampler_kl": mean("sampling/kl"),
        "rollout_seconds": sum(values("rollouts/seconds")),
    }
