"""Trains the base user simulator: LoRA fine-tuning on one seat's real messages (Section 3.3, Eq. 1, Table 6).

One pass over a session trains all its turns: with causal attention a message is predicted from what comes before it
only, and a mask restricts the loss to the seat's own tokens (including its end-of-turn and end-of-session tokens).
Works for either seat: the user simulator, or an adapter for a supporter chatbot. Independent of how the system text was
built.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Unpack

from rlenv.core.adapters import adapter_at
from rlenv.core.errors import PhaseError
from rlenv.core.files import read_records
from rlenv.core.types import Adapter
from rlenv.prompting.chat_format import ChatFormat, chat_format
from trainers.backend.fit import TrainOptions, last_tenth_mean, train_to_folder
from trainers.backend.huggingface import (
    callbacks,
    linear_names,
    load_base,
    require_positions,
    save_adapter,
    train_and_resume,
    training_arguments,
)
from trainers.backend.worker import Worker, seed_everything
from trainers.sft.config import SftConfig, SftExample, SftResult


def fit_sft(
    examples: Sequence[SftExample] | str | Path,
    config: SftConfig,
    base_model: str | Path,
    out_dir: str | Path,
    name: str = "base",
    start: Adapter | None = None,
    **options: Unpack[TrainOptions],
) -> SftResult:
    """Returns the adapter trained with Eq. 1, written to ``out_dir`` (which must not exist).

    Args:
        examples: the sessions, or for large sets a JSON lines file of them that every worker can read.
        config: hyper-parameters.
        base_model: a folder with a chat model and its tokenizer.
        out_dir: the adapter's folder; appears whole or not at all.
        name: the adapter's version name.
        start: an adapter to train further; None begins a new one.
        options: see ``TrainOptions``.

    Raises:
        PhaseError: training failed, or there is no session to learn from.
    """
    source = str(Path(examples).resolve()) if isinstance(examples, (str, Path)) else tuple(examples)
    if not source:
        raise PhaseError("sft: no sessions to learn from")
    payload = (source, config, str(base_model), *([start.path] if start else []))
    summary = train_to_folder(train_sft, "sft", payload, out_dir, **options)
    return SftResult(adapter=adapter_at(out_dir, name), **summary)


def sft_rows(
    examples: Sequence[SftExample], chat: ChatFormat, max_tokens: int | None
) -> tuple[list[dict[str, list[int]]], int]:
    """Returns (rows of ``input_ids`` and ``labels``, -100 where there is no loss; number of sessions left out)."""
    rows = []
    for example in examples:
        ids, mask = chat.training_example(example.system, example.messages, example.seat, max_tokens=max_tokens)
        if any(mask):
            rows.append({"input_ids": ids, "labels": [i if m else -100 for i, m in zip(ids, mask, strict=True)]})
    return rows, len(examples) - len(rows)


def pad_right(rows: Sequence[dict[str, list[int]]]) -> dict[str, Any]:
    """Returns the rows as one batch of tensors, padded on the right; padding has no loss."""
    import torch

    width = max(len(row["input_ids"]) for row in rows)

    def padded(values: list[int], fill: int) -> list[int]:
        return values + [fill] * (width - len(values))

    return {
        "input_ids": torch.tensor([padded(row["input_ids"], 0) for row in rows]),
        "attention_mask": torch.tensor([padded([1] * len(row["input_ids"]), 0) for row in rows]),
        "labels": torch.tensor([padded(row["labels"], -100) for row in rows]),
    }


def own_positions(rows: Sequence[dict[str, list[int]]]) -> dict[str, Any]:
    """Returns a padded batch whose logits are computed only at positions where some row has a loss.

    The loss is the same as with all logits. With a vocabulary of 49,152 tokens, the other logits would be a third of a
    small model's work.
    """
    batch = pad_right(rows)
    next_labels = batch["labels"][:, 1:]
    kept = (next_labels != -100).any(dim=0).nonzero().squeeze(1)
    return {**batch, "logits_to_keep": kept, "shift_labels": next_labels[:, kept]}


def train_sft(payload: tuple[Any, ...], worker: Worker) -> dict[str, Any]:
    """Returns the summary of one run; rank 0 writes the adapter.

    ``payload`` is (sessions, settings, base model, the adapter to start from if there is one, the folder to write).
    """
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoTokenizer, Trainer, TrainingArguments

    source, config, base_model, *start, out_dir = payload
    examples = read_records(source, SftExample) if isinstance(source, str) else source
    seed_everything(config.seed)
    base = load_base(base_model, config.dtype, worker.device, config.shard)
    limit = config.max_tokens or getattr(base.config.get_text_config(), "max_position_embeddings", None)
    tokenizer = AutoTokenizer.from_pretrained(base_model)
    chat = chat_format(tokenizer)
    rows, num_left_out = sft_rows(examples, chat, limit)
    if not rows:
        raise PhaseError(
            f"sft: none of {len(examples)} sessions has a token of the trained seat within {limit} tokens; "
            "raise max_tokens or shorten the context"
        )
    require_positions(base_model, max(len(row["input_ids"]) for row in rows), "sft")
    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=linear_names(base),
        task_type="CAUSAL_LM",
    )
    grouped = {"train_sampling_strategy": "group_by_length"} if config.batch_size > 1 else {}
    trainer = Trainer(
        model=PeftModel.from_pretrained(base, start[0], is_trainable=True) if start else get_peft_model(base, lora),
        args=TrainingArguments(**training_arguments(worker, config, **grouped)),
        train_dataset=rows,
        data_collator=own_positions,
        callbacks=callbacks(worker),
    )
    train_and_resume(trainer, worker, config)
    save_adapter(trainer, worker, tokenizer, out_dir)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {
        "num_sessions": len(rows),
        "num_left_out": num_left_out,
        "num_trained_tokens": sum(label != -100 for row in rows for label in row["labels"]),
        "loss_first": float(losses[0]),
        "loss_last": last_tenth_mean(losses),
    }
