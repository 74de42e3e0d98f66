"""The training loop of ``fit_discriminators``: trains each task afresh from the backbone (Eq. 3) and validates it.

Runs on Ray Train's workers. A restart skips finished tasks and resumes an unfinished one from its last checkpoint.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from rlenv.core.errors import PhaseError
from rlenv.core.files import new_folder
from rlenv.core.log_odds import PRIOR_LOG_ODDS
from rlenv.core.seeds import derive_seed
from rlenv.discriminator.labelled import LabelledSession
from rlenv.discriminator.model import TurnScorer, length_batches, new_classifier, pad_rows, save_classifier, score_rows
from rlenv.discriminator.rows import DiscriminatorRow, discriminator_row
from rlenv.models.hardware import resolve_precision
from rlenv.prompting.chat_format import chat_format
from trainers.backend.fit import last_tenth_mean
from trainers.backend.huggingface import linear_names
from trainers.backend.optimization import Optimization, muon_optimizers, rate_factors
from trainers.backend.worker import Worker, seed_everything
from trainers.discriminator.batches import class_weights, epoch_batches, turn_weights

if TYPE_CHECKING:
    from trainers.discriminator.config import DiscriminatorConfig

Item = tuple[LabelledSession, "str | None"]
"""A session and its context's text."""
STATE = "state.pt"
"""File in a checkpoint: the training state of the current task."""


@dataclass(frozen=True)
class Task:
    """A ``DiscriminatorJob`` with the texts of its contexts."""

    name: str
    train: Sequence[Item]
    validation: Sequence[Item]
    blank_user: bool


def train_discriminators(
    payload: tuple[Sequence[Task], DiscriminatorConfig, str, Sequence[str]], worker: Worker
) -> list[dict[str, Any]]:
    """Returns one summary per task; rank 0 writes the task folders."""
    tasks, config, base_model, folders = payload
    loop = DiscriminatorLoop(worker, config, base_model, len(tasks))
    with worker.resume() as folder:
        if folder:
            loop.summaries = json.loads((folder / "summaries.json").read_text())
        for index in range(len(loop.summaries), len(tasks)):
            state_file = folder / STATE if folder and (folder / STATE).exists() else None
            loop.run(tasks[index], state_file)
            folder = None  # the saved state belongs to the first unfinished task only
    if worker.rank == 0:
        for index, target in enumerate(folders):
            shutil.copytree(loop.saved(index), target, dirs_exist_ok=True)
    return loop.summaries


class DiscriminatorLoop:
    """What the tasks of one launch share, and the summaries of the finished ones."""

    def __init__(self, worker: Worker, config: DiscriminatorConfig, base_model: str, num_tasks: int) -> None:
        from transformers import AutoTokenizer

        self.worker, self.config, self.base_model, self.num_tasks = worker, config, base_model, num_tasks
        self.tokenizer = AutoTokenizer.from_pretrained(base_model)
        self.chat = chat_format(self.tokenizer)
        self.dtype = resolve_precision(config.dtype, worker.device)
        self.autocast = torch.bfloat16 if self.dtype == "bfloat16" else None
        self.summaries: list[dict[str, Any]] = []

    def saved(self, index: int) -> Path:
        """Returns the folder of a finished task, which is kept across restarts."""
        return self.worker.scratch / f"task{index}"

    def run(self, task: Task, state_file: Path | None) -> None:
        """Trains, validates and saves one discriminator; ``state_file`` is the state to resume from."""
        seed_everything(self.config.seed)
        layout = self.config.layout(blank_user=task.blank_user)

        def lay_out(items: Sequence[Item]) -> list[DiscriminatorRow]:
            return [discriminator_row(self.chat, layout, i.session.messages, s, i.session.session_id) for i, s in items]

        rows, labels = lay_out(task.train), [item.real for item, _ in task.train]
        usable = [i for i, row in enumerate(rows) if row.positions]
        num_real = sum(labels[i] for i in usable)
        if not 0 < num_real < len(usable):
            raise PhaseError(
                f"discriminator {task.name}: expected real and simulated sessions with a turn within "
                f"{layout.max_tokens} tokens, got {num_real} real and {len(usable) - num_real} simulated; "
                "raise discriminator.max_tokens or shorten the context"
            )
        held_out = lay_out(task.validation)
        scorer = TurnScorer(self._classifier(), self.autocast, self.config.evidence)
        losses = self._train(scorer, [rows[i] for i in usable], [labels[i] for i in usable], state_file)
        self._validate_and_save(task, scorer, held_out, layout)
        self.summaries.append(
            {
                "num_train": len(usable),
                "num_cut": sum(len(row.positions) < row.num_turns for row in (*rows, *held_out)),
                "loss_first": losses[0],
                "loss_last": last_tenth_mean(losses),
            }
        )
        self._checkpoint(None)

    def _classifier(self) -> torch.nn.Module:
        config = self.config
        weights = self.dtype if config.lora_rank else "float32"
        classifier = new_classifier(self.base_model, weights, config.dropout)
        if config.gradient_checkpointing:
            classifier.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        if not config.lora_rank:
            return classifier
        from peft import LoraConfig, get_peft_model

        lora = LoraConfig(
            r=config.lora_rank,
            lora_alpha=config.lora_alpha,
            target_modules=linear_names(classifier),
            modules_to_save=["score"],
            task_type="TOKEN_CLS",
        )
        return get_peft_model(classifier, lora)

    def _train(
        self, scorer: TurnScorer, rows: list[DiscriminatorRow], labels: list[bool], state_file: Path | None
    ) -> list[float]:
        """Returns the loss of each step."""
        config, worker = self.config, self.worker
        scorer.to(worker.device)
        batches = self._batches(rows)
        total = len(batches) // worker.world_size
        optimization = self._optimization(scorer, total)
        if state_file:
            optimization.load(state_file)
        by_class = class_weights(labels)
        scorer.train()
        done = len(self.summaries)
        worker.progress.begin()
        for step in range(len(optimization.losses), total):
            batch = batches[step * worker.world_size + worker.rank]
            loss = self.backward(scorer, [rows[i] for i in batch], [labels[i] for i in batch], by_class)
            rate = optimization.step(loss)
            worker.progress.write(
                done * total + step + 1, self.num_tasks * total, job=done, loss=optimization.losses[-1], lr=rate
            )
            if optimization.is_due(config.save_every, total):
                self._checkpoint(optimization.state())
        return optimization.losses

    def _batches(self, rows: Sequence[DiscriminatorRow]) -> list[list[int]]:
        """Returns the indices of every batch of every epoch; the workers take batches in turn."""
        config, lengths = self.config, [len(row.token_ids) for row in rows]
        seeds = [derive_seed(config.seed, "epoch", epoch) for epoch in range(config.epochs)]
        return [b for seed in seeds for b in epoch_batches(lengths, config.batch_size, self.worker.world_size, seed)]

    def _optimization(self, scorer: TurnScorer, total: int) -> Optimization:
        config = self.config
        named = [(name, p) for name, p in scorer.named_parameters() if p.requires_grad]
        optimizers: list[torch.optim.Optimizer]
        if config.optimizer == "muon":
            optimizers = muon_optimizers(named, config.learning_rate, config.weight_decay)
        else:
            weights = [p for _, p in named]
            optimizers = [torch.optim.AdamW(weights, lr=config.learning_rate, weight_decay=config.weight_decay)]
        factor = rate_factors(config.schedule, total, config.warmup)
        return Optimization(scorer, optimizers, config.learning_rate, factor, config.max_grad_norm, self.worker)

    def backward(
        self,
        scorer: TurnScorer,
        rows: list[DiscriminatorRow],
        labels: list[bool],
        by_class: tuple[float, float],
    ) -> float:
        """Accumulates the gradient of Eq. 3 over one batch, in parts of at most ``batch_tokens``; returns the loss."""
        weights = iter(turn_weights(rows, self.config.average))
        per_row = [
            [next(weights) * by_class[label] for _ in row.positions] for row, label in zip(rows, labels, strict=True)
        ]
        loss = 0.0
        for part in length_batches([len(row.token_ids) for row in rows], self.config.batch_tokens):
            batch = pad_rows([rows[i] for i in part]).to(self.worker.device)
            log_odds = scorer(batch.input_ids, batch.rows, batch.positions)
            target = log_odds.new_tensor([float(labels[i]) for i in part for _ in rows[i].positions])
            weight = log_odds.new_tensor([w for i in part for w in per_row[i]])
            part_loss = binary_cross_entropy_with_logits(log_odds, target, weight=weight, reduction="sum")
            part_loss.backward()
            loss += part_loss.item()
        return loss

    def _validate_and_save(self, task: Task, scorer: TurnScorer, rows: list[DiscriminatorRow], layout: Any) -> None:
        if self.worker.rank != 0:
            return
        scores = score_rows(scorer, rows, batch_tokens=self.config.batch_tokens)
        scored = [
            {
                "session_id": item.session.session_id,
                "context_id": item.context_id,
                "real": item.real,
                "log_odds": [PRIOR_LOG_ODDS, *map(float, score)],
                "num_turns": row.num_turns,
            }
            for (item, _), row, score in zip(task.validation, rows, scores, strict=True)
        ]
        with new_folder(self.saved(len(self.summaries)), replace=True) as folder:
            (folder / "validation.json").write_text(json.dumps(scored))
            save_classifier(
                scorer.classifier,
                folder,
                layout=layout,
                base_model=self.base_model,
                dtype=self.dtype,
                tokenizer=self.tokenizer,
                evidence=self.config.evidence,
            )

    def _checkpoint(self, state: dict[str, Any] | None) -> None:
        """Saves the summaries of finished tasks and, with ``state``, the current task's training state."""

        def write(folder: Path) -> None:
            (folder / "summaries.json").write_text(json.dumps(self.summaries))
            if state:
                torch.save(state, folder / STATE)

        self.worker.save_checkpoint({"done": float(len(self.summaries))}, write)
