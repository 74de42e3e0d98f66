"""The loop behind ``fit_discriminators``: each task fresh from the backbone, Eq. 3 at every user message, validation.

Runs on Ray Train's workers. A restart skips finished tasks and goes on within an unfinished one at its last checkpoint.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from rlenv.core.errors import PhaseError
from rlenv.core.log_odds import PRIOR_LOG_ODDS
from rlenv.core.seeds import derive_seed
from rlenv.discriminator.labelled import LabelledSession
from rlenv.discriminator.model import TurnScorer, length_batches, new_classifier, pad_rows, save_classifier, score_rows
from rlenv.discriminator.rows import DiscriminatorRow, discriminator_row
from rlenv.models.hardware import resolve_precision
from rlenv.prompting.chat_format import chat_format
from trainers.backend.huggingface import linear_names
from trainers.backend.optimization import muon_optimizers, rate_factor
from trainers.backend.ray_train import Worker, seed_everything, temporary_folder

if TYPE_CHECKING:
    from trainers.discriminator.config import DiscriminatorConfig

Item = tuple[LabelledSession, "str | None"]
"""A session and its context's text."""


@dataclass(frozen=True)
class Task:
    """A ``DiscriminatorJob`` with its contexts' texts."""

    name: str
    train: Sequence[Item]
    validation: Sequence[Item]
    blank_user: bool


def turn_weights(rows: Sequence[DiscriminatorRow], average: Literal["session", "turn"]) -> list[float]:
    """Returns the weight of each position of a batch, in order; they sum to 1."""
    total = sum(len(row.positions) for row in rows)
    if average == "turn":
        return [1 / total] * total
    return [1 / (len(rows) * len(row.positions)) for row in rows for _ in row.positions]


def class_weights(labels: Sequence[bool]) -> tuple[float, float]:
    """Returns (simulated, real) weights under which both classes count the same; 1 and 1 where they are balanced."""
    real = sum(labels)
    return len(labels) / (2 * (len(labels) - real)), len(labels) / (2 * real)


def epoch_batches(lengths: Sequence[int], batch_size: int, world_size: int, seed: int) -> list[list[int]]:
    """Returns an epoch's batches of indices: shuffled, of like length within pools, a multiple of ``world_size``."""
    rng = random.Random(seed)
    order = list(range(len(lengths)))
    rng.shuffle(order)
    batches: list[list[int]] = []
    for start in range(0, len(order), batch_size * 16):
        pool = sorted(order[start : start + batch_size * 16], key=lambda i: lengths[i])
        batches.extend(pool[i : i + batch_size] for i in range(0, len(pool), batch_size))
    rng.shuffle(batches)
    missing = -len(batches) % world_size
    return batches + [batches[i % len(batches)] for i in range(missing)]


def train_discriminators(
    payload: tuple[Sequence[Task], DiscriminatorConfig, str, Sequence[str]], worker: Worker
) -> list[dict[str, Any]]:
    """Returns one summary a task; their folders are written on rank 0."""
    tasks, config, base_model, folders = payload
    loop = DiscriminatorLoop(worker, config, base_model, len(tasks))
    with worker.resume() as folder:
        if folder:
            loop.summaries = json.loads((folder / "summaries.json").read_text())
        for index in range(len(loop.summaries), len(tasks)):
            begun = folder / "state.pt" if folder else None
            loop.run(tasks[index], begun if begun and begun.exists() else None)
            folder = None
    if worker.rank == 0:
        for index, target in enumerate(folders):
            shutil.copytree(loop.saved(index), target, dirs_exist_ok=True)
    return loop.summaries


class DiscriminatorLoop:
    """What the tasks of one launch share, and the summaries of those that are done."""

    def __init__(self, worker: Worker, config: DiscriminatorConfig, base_model: str, num_tasks: int) -> None:
        from transformers import AutoTokenizer

        self.worker, self.config, self.base_model, self.num_tasks = worker, config, base_model, num_tasks
        self.tokenizer = AutoTokenizer.from_pretrained(base_model)
        self.chat = chat_format(self.tokenizer)
        self.dtype = resolve_precision(config.dtype, worker.device)
        self.autocast = torch.bfloat16 if self.dtype == "bfloat16" else None
        self.summaries: list[dict[str, Any]] = []

    def saved(self, index: int) -> Path:
        """The folder of a finished task, kept across restarts."""
        return self.worker.scratch / f"task{index}"

    def run(self, task: Task, begun: Path | None) -> None:
        """Trains, validates and saves one discriminator; ``begun`` is the state to go on from."""
        seed_everything(self.config.seed)
        layout = self.config.layout(blank_user=task.blank_user)

        def lay_out(items: Sequence[Item]) -> list[DiscriminatorRow]:
            return [discriminator_row(self.chat, layout, i.session.messages, s, i.session.session_id) for i, s in items]

        rows, labels = lay_out(task.train), [item.real for item, _ in task.train]
        usable = [i for i, row in enumerate(rows) if row.positions]
        if not usable:
            raise PhaseError(f"discriminator {task.name}: no session has a turn within {layout.max_tokens} tokens")
        held_out = lay_out(task.validation)
        scorer = TurnScorer(self._classifier(), self.autocast, self.config.evidence)
        losses = self._train(task, scorer, [rows[i] for i in usable], [labels[i] for i in usable], begun)
        tail = losses[-max(1, len(losses) // 10) :]
        self._validate_and_save(task, scorer, held_out, layout)
        self.summaries.append(
            {
                "num_train": len(usable),
                "num_cut": sum(len(row.positions) < row.num_turns for row in (*rows, *held_out)),
                "loss_first": losses[0],
                "loss_last": sum(tail) / len(tail),
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
        self, task: Task, scorer: TurnScorer, rows: list[DiscriminatorRow], labels: list[bool], begun: Path | None
    ) -> list[float]:
        config, worker = self.config, self.worker
        scorer.to(worker.device)
        named = [(n, p) for n, p in scorer.named_parameters() if p.requires_grad]
        trained = [p for _, p in named]
        optimizers = self._optimizers(named)
        lengths = [len(row.token_ids) for row in rows]
        by_class = class_weights(labels)
        batches = [
            batch
            for epoch in range(config.epochs)
            for batch in epoch_batches(
                lengths, config.batch_size, worker.world_size, derive_seed(config.seed, "epoch", epoch)
            )
        ]
        total = len(batches) // worker.world_size
        losses: list[float] = []
        if begun:
            state = torch.load(begun, map_location=worker.device, weights_only=True)
            _load_trained(scorer, state["model"])
            for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            losses = state["losses"]
        scorer.train()
        for step in range(len(losses), total):
            rate = config.learning_rate * rate_factor(step, total, config.schedule, config.warmup)
            for group in (g for optimizer in optimizers for g in optimizer.param_groups):
                group["lr"] = rate
            batch = batches[step * worker.world_size + worker.rank]
            loss = self.backward(scorer, [rows[i] for i in batch], [labels[i] for i in batch], by_class)
            _average_gradients(trained, worker)
            torch.nn.utils.clip_grad_norm_(trained, config.max_grad_norm)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            losses.append(_mean_over_workers(loss, worker))
            done = len(self.summaries)
            worker.progress.write(
                done * total + step + 1,
                self.num_tasks * total,
                job=done,
                loss=losses[-1],
                lr=rate,
            )
            if config.save_every and (step + 1) % config.save_every == 0 and step + 1 < total:
                model_state = {n: p.detach() for n, p in named}
                states = [optimizer.state_dict() for optimizer in optimizers]
                self._checkpoint({"model": model_state, "optimizers": states, "losses": losses})
        return losses

    def _optimizers(self, named: Sequence[tuple[str, torch.nn.Parameter]]) -> list[torch.optim.Optimizer]:
        config = self.config
        if config.optimizer == "muon":
            return muon_optimizers(named, config.learning_rate, config.weight_decay)
        weights = [parameter for _, parameter in named]
        return [torch.optim.AdamW(weights, lr=config.learning_rate, weight_decay=config.weight_decay)]

    def backward(
        self,
        scorer: TurnScorer,
        rows: list[DiscriminatorRow],
        labels: list[bool],
        by_class: tuple[float, float],
    ) -> float:
        """Adds the gradient of Eq. 3 over one batch, in parts of at most ``batch_tokens``; returns the loss."""
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
        folder = self.saved(len(self.summaries))
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
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
        folder = temporary_folder(self.worker) if self.worker.rank == 0 else None
        if folder:
            (Path(folder) / "summaries.json").write_text(json.dumps(self.summaries))
            if state:
                torch.save(state, Path(folder) / "state.pt")
        self.worker.report({"done": float(len(self.summaries))}, folder)
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


def _average_gradients(parameters: Sequence[torch.nn.Parameter], worker: Worker) -> None:
    """Averages gradients over the workers, once a step.

    Workers split their batches into different numbers of parts, which ``DistributedDataParallel``, synchronising at
    forward and backward passes, answers with a deadlock. Equal seeds make the workers' first weights equal.
    """
    if worker.world_size == 1:
        return
    gradients = []
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        gradients.append(parameter.grad)
    flat = torch.cat([gradient.flatten() for gradient in gradients])  # one message: each costs a round trip
    torch.distributed.all_reduce(flat)
    flat /= worker.world_size
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def _load_trained(scorer: TurnScorer, state: dict[str, torch.Tensor]) -> None:
    own = dict(scorer.named_parameters())
    with torch.no_grad():
        for name, value in state.items():
            own[name].copy_(value)


def _mean_over_workers(loss: float, worker: Worker) -> float:
    if worker.world_size == 1:
        return loss
    value = torch.tensor(loss, device=worker.device)
    torch.distributed.all_reduce(value)
    return float(value) / worker.world_size
