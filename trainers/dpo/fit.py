"""One adversarial update: DPO with the previous iteration's simulator as reference (Section 3.5, Eq. 5).

Uses TRL's ``DPOTrainer``, in a subclass that takes the sampled token ids and reads what pairs share once. The policy
is passed as a trainable ``PeftModel`` without a ``peft_config``, so that TRL copies the loaded adapter into a frozen
reference named ``ref``. With a ``peft_config`` the reference would silently be the bare base model. ``max_length`` is
None, because TRL's default cuts prompts from the right, and a row without completion tokens teaches nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

from rlenv.core.adapters import adapter_at
from rlenv.core.errors import PhaseError
from rlenv.core.types import Adapter, Alternatives, PreferencePair
from rlenv.models.attention import take_block_masks
from trainers.backend.fit import TrainOptions, last_tenth_mean, train_to_folder
from trainers.backend.huggingface import (
    callbacks,
    load_base,
    require_positions,
    save_adapter,
    train_and_resume,
    training_arguments,
)
from trainers.backend.worker import Worker, seed_everything
from trainers.dpo.config import DpoConfig, DpoResult
from trainers.sft.config import SftExample

KEYS = ("prompt_ids", "chosen_ids", "rejected_ids")


def fit_dpo(
    reference: Adapter,
    pairs: Sequence[PreferencePair],
    alternatives: Sequence[Alternatives],
    config: DpoConfig,
    base_model: str | Path,
    out_dir: str | Path,
    name: str,
    real: Mapping[str, SftExample] | None = None,
    **options: Unpack[TrainOptions],
) -> DpoResult:
    """Returns the adapter after Eq. 5, or after another of ``dpo.targets``, written to ``out_dir`` (must not exist).

    Args:
        reference: the previous iteration's simulator: the policy's starting point and DPO's reference.
        pairs: the preference set, for ``hard``; its token ids are trained on unchanged.
        alternatives: all alternatives with their rewards, for the other targets.
        config: hyper-parameters.
        base_model: folder of the model that ``reference`` was trained on.
        out_dir: the adapter's folder; appears whole or not at all.
        name: the new version's name.
        real: for ``dpo.replay``, the real session of each session with alternatives, by the latter's id.
        options: see ``TrainOptions``.

    Raises:
        PhaseError: there are no pairs, a pair has no tokens, or training failed.
    """
    rest = (config, str(base_model), reference.path)
    if config.targets == "hard":
        check_pairs(pairs)
        rows = {key: [list(getattr(pair, key)) for pair in pairs] for key in KEYS}
        summary = train_to_folder(train_dpo, "dpo", (rows, *rest), out_dir, **options)
    else:
        if not alternatives:
            raise PhaseError(f"dpo: no alternatives for targets {config.targets!r}; raise collect.num_contexts")
        summary = train_to_folder(
            _train_on_alternatives, "dpo", ((alternatives, real if config.replay else None), *rest), out_dir, **options
        )
    return DpoResult(adapter=adapter_at(out_dir, name), **summary)


def _train_on_alternatives(payload: tuple[Any, DpoConfig, str, str, str], worker: Worker) -> dict[str, Any]:
    from trainers.dpo.alternatives import train_on_alternatives  # torch is imported by the workers only

    return train_on_alternatives(payload, worker)


def check_pairs(pairs: Sequence[PreferencePair]) -> None:
    """Raises PhaseError if there is no pair, or if pairs lack tokens (naming each problem, up to 20)."""
    if not pairs:
        raise PhaseError(
            "dpo: no preference pairs; raise preferences.num_alternatives, or collect.num_contexts for more sessions"
        )
    problems = [
        f"pair {i} (session {pair.session_id}, turn {pair.turn}): {key} is empty; every row needs tokens"
        for i, pair in enumerate(pairs)
        for key in KEYS
        if not getattr(pair, key)
    ]
    if problems:
        raise PhaseError("dpo: " + "\n".join(problems[:20]))


def dpo_arguments(worker: Worker, config: DpoConfig) -> Any:
    """Returns TRL's ``DPOConfig`` for ``config``."""
    from trl import DPOConfig

    loss: dict[str, Any] = {"loss_type": ["sigmoid"]}
    if config.chosen_nll:
        loss = {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, config.chosen_nll]}
    return DPOConfig(**training_arguments(worker, config, beta=config.beta, max_length=None, **loss))


def train_dpo(payload: tuple[Any, DpoConfig, str, str, str], worker: Worker) -> dict[str, Any]:
    """Returns the summary of one run; the adapter is written on rank 0."""
    from datasets import Dataset
    from peft import PeftModel
    from transformers import AutoTokenizer

    from trainers.dpo.pairs import PairsTrainer  # TRL is imported by the workers only

    rows, config, base_model, reference, out_dir = payload
    require_positions(base_model, _longest(rows), "dpo")
    seed_everything(config.seed)
    base = load_base(base_model, config.dtype, worker.device, config.shard)
    take_block_masks(base, config.blocks_from)
    policy = PeftModel.from_pretrained(base, reference, is_trainable=True)
    trainer = PairsTrainer(
        model=policy,
        args=dpo_arguments(worker, config),
        train_dataset=Dataset.from_dict(rows),
        processing_class=AutoTokenizer.from_pretrained(base_model),
        callbacks=callbacks(worker),
        blocks_from=config.blocks_from,
    )
    train_and_resume(trainer, worker, config)
    save_adapter(trainer, worker, trainer.processing_class, out_dir)
    history = [entry for entry in trainer.state.log_history if "rewards/margins" in entry]

    def last(key: str) -> float:
        return last_tenth_mean([entry[key] for entry in history])

    return {
        "num_pairs": len(rows["prompt_ids"]),
        "loss_step0": float(history[0]["loss"]),
        "loss_last": last("loss"),
        "margin": last("rewards/margins"),
        "accuracy": last("rewards/accuracies"),
        "rate_max": max(float(entry["learning_rate"]) for entry in history),
    }


def _longest(rows: dict[str, list[list[int]]]) -> int:
    replies = [max(len(c), len(r)) for c, r in zip(rows["chosen_ids"], rows["rejected_ids"], strict=True)]
    return max(len(p) + n for p, n in zip(rows["prompt_ids"], replies, strict=True))
