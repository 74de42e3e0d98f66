"""The loop behind targets other than ``hard``: all alternatives of a session's turns in one forward pass.

Runs on Ray Train's workers, on transformers' ``Trainer``, sharded or not. The reference is a frozen copy of the
policy's adapter; the workers share the reading of its log-probs, once, before the first step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from accelerate.utils import gather_object
from peft import PeftModel
from transformers import AutoTokenizer, Trainer, TrainerCallback, TrainingArguments

from rlenv.core.types import Alternatives
from rlenv.models.attention import take_block_masks
from rlenv.models.tree_batch import TokenBranch, TokenTree, tree_batch
from rlenv.prompting.chat_format import chat_format
from trainers.backend.fit import last_tenth_mean
from trainers.backend.huggingface import (
    callbacks,
    load_base,
    require_positions,
    save_adapter,
    train_and_resume,
    training_arguments,
)
from trainers.backend.worker import Worker, seed_everything
from trainers.dpo.targets import target_loss
from trainers.sft.fit import own_positions, sft_rows

if TYPE_CHECKING:
    from trainers.dpo.config import DpoConfig
    from trainers.sft.config import SftExample


REFERENCE = "ref"
"""The name of the adapter's frozen copy, as in TRL; checkpoints leave it out."""
FIGURES = ("margin", "target", "accuracy")
"""Of the alternatives with the extreme rewards: how far apart they are, how far apart they are to be, and whether the
policy orders them as the rewards do."""


@dataclass(frozen=True)
class TurnRow:
    """One turn's alternatives within a tree."""

    rewards: tuple[float, ...]
    lengths: tuple[int, ...]
    reference: tuple[float, ...] = ()
    """Log-probs under the reference; empty until they are computed."""


@dataclass(frozen=True)
class SessionRow:
    """The alternatives of a session as one tree, whose branches are those of ``turns``, in order."""

    session_id: str
    tree: TokenTree
    turns: tuple[TurnRow, ...]
    real: dict[str, list[int]] | None = None
    """``input_ids`` and ``labels`` of the real session beside it; see ``dpo.replay``."""


def session_rows(alternatives: Sequence[Alternatives]) -> list[SessionRow]:
    """Returns a row for each session: prompts of later turns begin with those of earlier ones, so all fit one trunk.

    A turn whose prompt is no beginning of the session's longest one (a context that was cut) gets a row of its own.
    """
    by_session: dict[str, list[Alternatives]] = {}
    for each in alternatives:
        by_session.setdefault(each.session_id, []).append(each)
    rows = []
    for session_id, group in by_session.items():
        trunk = max((each.prompt_ids for each in group), key=len)
        inside = [each for each in group if trunk[: len(each.prompt_ids)] == each.prompt_ids]
        outside = [each for each in group if trunk[: len(each.prompt_ids)] != each.prompt_ids]
        rows.append(_row(session_id, trunk, inside))
        rows.extend(_row(session_id, each.prompt_ids, [each]) for each in outside)
    return rows


def _row(session_id: str, trunk: tuple[int, ...], group: Sequence[Alternatives]) -> SessionRow:
    branches = tuple(TokenBranch(len(each.prompt_ids), ids) for each in group for ids in each.replies_ids)
    turns = tuple(TurnRow(each.rewards, tuple(map(len, each.replies_ids))) for each in group)
    return SessionRow(session_id, TokenTree(trunk, branches), turns)


def with_real(
    rows: Sequence[SessionRow], real: Mapping[str, SftExample], base_model: str, max_tokens: int | None = None
) -> list[SessionRow]:
    """Returns the rows, the first of each session with the real session in ``real`` under its id, as SFT trains it.

    A real session beyond ``max_tokens`` is cut after a whole message; one without a user's message within is left out.
    """
    chat = chat_format(AutoTokenizer.from_pretrained(base_model))
    left = {session_id: sft_rows([example], chat, max_tokens)[0] for session_id, example in real.items()}
    return [replace(row, real=next(iter(left.pop(row.session_id, ())), None)) for row in rows]


def split_rows(rows: Sequence[SessionRow], held_out: float) -> tuple[list[SessionRow], list[SessionRow]]:
    """Returns (rows to train on, rows of the share ``held_out`` of the sessions); never without rows to train on."""
    sessions = list(dict.fromkeys(row.session_id for row in rows))
    kept = set(sessions[: max(1, round(len(sessions) * (1 - held_out)))])
    return [r for r in rows if r.session_id in kept], [r for r in rows if r.session_id not in kept]


class AlternativesTrainer(Trainer):
    """Trains on rows by their place in ``rows``."""

    def __init__(self, policy: Any, rows: Sequence[SessionRow], config: DpoConfig, worker: Worker) -> None:
        self.rows, self.dpo, self.worker = list(rows), config, worker
        self.since_log: list[tuple[float, float, float]] = []
        self.since_log_nll: list[float] = []
        super().__init__(
            model=policy,
            args=TrainingArguments(**training_arguments(worker, config)),
            train_dataset=range(len(rows)),  # type: ignore[arg-type]
            data_collator=lambda places: {"places": places},
            callbacks=[*callbacks(worker), _ReadReference(self)],
        )

    def read_reference(self) -> None:
        """Fills in the reference's log-probs of all rows; every worker must call it, of a model that may be sharded."""
        with reference_of(self.model):
            self.rows = with_reference(self.model, self.rows, self.dpo.batch_size, self.worker, self.dpo.blocks_from)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        rows = [self.rows[place] for place in inputs["places"]]
        loss, figures = batch_loss(model, rows, self.dpo)
        self.since_log.append(figures)
        if real_rows := [row.real for row in rows if row.real is not None]:
            nll = real_nll(model, real_rows)
            self.since_log_nll.append(float(nll.detach()))
            loss = loss + self.dpo.replay * nll
        return (loss, None) if return_outputs else loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if self.since_log:
            logs |= dict(zip(FIGURES, np.mean(self.since_log, axis=0).tolist(), strict=True))
            self.since_log.clear()
        if self.since_log_nll:
            logs["replay_nll"] = float(np.mean(self.since_log_nll))
            self.since_log_nll.clear()
        super().log(logs, *args, **kwargs)


class _ReadReference(TrainerCallback):
    """Has the reference read when the model is in place: after it is sharded, and before the first step."""

    def __init__(self, trainer: AlternativesTrainer) -> None:
        self.trainer = trainer

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.trainer.read_reference()


@contextmanager
def reference_of(policy: Any) -> Iterator[None]:
    """Within it ``policy`` answers as the reference, and is not in training mode."""
    training = policy.training
    policy.eval().set_adapter(REFERENCE)
    try:
        yield
    finally:
        policy.set_adapter("default")
        policy.train(training)


def train_on_alternatives(payload: tuple[Any, DpoConfig, str, str, str], worker: Worker) -> dict[str, Any]:
    """Returns the summary of one run; the adapter is written on rank 0."""
    (alternatives, real), config, base_model, reference, out_dir = payload
    rows = session_rows(alternatives)
    if real:
        rows = with_real(rows, real, base_model, config.replay_max_tokens)
    require_positions(base_model, max(map(_last_position, rows)), "dpo")
    seed_everything(config.seed)
    base = load_base(base_model, config.dtype, worker.device, config.shard)
    take_block_masks(base, config.blocks_from)
    policy = PeftModel.from_pretrained(base, reference, is_trainable=True)
    policy.load_adapter(reference, REFERENCE)
    train, held_out = split_rows(rows, config.held_out)
    trainer = AlternativesTrainer(policy, train, config, worker)
    train_and_resume(trainer, worker, config)
    save_adapter(trainer, worker, AutoTokenizer.from_pretrained(base_model), out_dir)
    history = [entry for entry in trainer.state.log_history if FIGURES[0] in entry and "loss" in entry]
    last = {key: last_tenth_mean([float(entry[key]) for entry in history]) for key in ("loss", *FIGURES)}
    summary: dict[str, Any] = {
        "num_pairs": sum(len(row.turns) for row in train),
        "loss_step0": float(history[0]["loss"]),
        "loss_last": last["loss"],
        **{name: last[name] for name in FIGURES},
        "rate_max": max(float(entry["learning_rate"]) for entry in history),
    }
    if nlls := [float(entry["replay_nll"]) for entry in history if "replay_nll" in entry]:
        summary["replay_nll"] = last_tenth_mean(nlls)
    if held_out:
        policy = _to_measure(trainer)
        with reference_of(policy):  # each worker reads all by itself: not all may measure in the same precision
            held_out = with_reference(policy, held_out, config.batch_size, blocks_from=config.blocks_from)
        summary |= held_out_figures(policy, held_out, config)
    return summary


def _to_measure(trainer: AlternativesTrainer) -> Any:
    """Returns the policy, out of training mode and in float32 where the weights have room for it.

    In bfloat16 the log-ratio of a message to the reference has an error of 0.3 nats (SmolLM2-135M). That is as much as
    an update moves it, and would make a good update look harmful.
    """
    policy = trainer.accelerator.unwrap_model(trainer.model_wrapped).eval()
    if not trainer.args.bf16 or trainer.dpo.shard:
        return policy
    if policy.device.type == "cuda":
        room, _ = torch.cuda.mem_get_info()
        if room < 4 * sum(parameter.numel() for parameter in policy.parameters()):
            return policy
    return trainer.accelerator.unwrap_model(trainer.model_wrapped, keep_fp32_wrapper=False).float()  # no autocast


def held_out_figures(model: Any, rows: Sequence[SessionRow], config: DpoConfig) -> dict[str, float]:
    """Returns the ``held_out_*`` figures of ``DpoResult`` on rows that were not trained on."""
    found = []
    with torch.no_grad():
        for row in rows:
            log_probs = branch_log_probs(model, [row], config.blocks_from)
            reference = log_probs.new_tensor([p for turn in row.turns for p in turn.reference])
            met = reference + log_probs.new_tensor([r for turn in row.turns for r in turn.rewards]) / config.beta
            loss, (margin, target, _) = rows_loss(log_probs, [row], config)
            before, most = (float(rows_loss(each, [row], config)[0]) for each in (reference, met))
            found.append((margin, target, before - float(loss), before - most))
    names = ("held_out_margin", "held_out_target", "held_out_gain", "held_out_most")
    figures = dict(zip(names, np.mean(found, axis=0).tolist(), strict=True))
    if config.targets == "imitate":  # its optimum depends on what the policy says beside the alternatives
        del figures["held_out_most"]
    return figures


def with_reference(
    model: Any,
    rows: Sequence[SessionRow],
    batch_size: int = 1,
    worker: Worker | None = None,
    blocks_from: int | None = None,
) -> list[SessionRow]:
    """Returns the rows with the log-probs of ``model``, which is the reference now.

    Args:
        model: the model; if it is sharded, every worker must take part.
        rows: the rows, the same on every worker.
        batch_size: rows in one forward pass on a GPU. On a CPU, batches only add padding.
        worker: this one of several that share the work; None reads all.
        blocks_from: see ``dpo.blocks_from``.
    """
    rank, num = (worker.rank, worker.world_size) if worker else (0, 1)
    size = batch_size if next(model.parameters()).is_cuda else 1
    # All make equally many passes, since a sharded model needs all of them; some rows are read twice.
    mine = [(rank + i * num) % len(rows) for i in range(-(-len(rows) // num))]
    found: list[tuple[int, list[float]]] = []
    with torch.no_grad():
        for start in range(0, len(mine), size):
            places = mine[start : start + size]
            log_probs = branch_log_probs(model, [rows[i] for i in places], blocks_from)
            parts = log_probs.split([_num_branches(rows[i]) for i in places])
            found.extend((i, part.tolist()) for i, part in zip(places, parts, strict=True))
    by_row = dict(gather_object(found) if num > 1 else found)

    def filled(row: SessionRow, each: Iterator[float]) -> SessionRow:
        return replace(row, turns=tuple(replace(t, reference=tuple(next(each) for _ in t.rewards)) for t in row.turns))

    return [filled(row, iter(by_row[i])) for i, row in enumerate(rows)]


def _num_branches(row: SessionRow) -> int:
    return len(row.tree.branches)


def branch_log_probs(model: Any, rows: Sequence[SessionRow], blocks_from: int | None = None) -> torch.Tensor:
    """Returns the log-probs of all alternatives of ``rows``, in order, [n]; ``blocks_from`` as in ``DpoConfig``."""
    batch = tree_batch([row.tree for row in rows])
    device = next(model.parameters()).device
    return batch.log_probs(model(**batch.inputs(device, blocks_from)).logits)


def real_nll(model: Any, rows: Sequence[dict[str, list[int]]]) -> torch.Tensor:
    """Returns the mean negative log-likelihood of the rows' labelled tokens, a scalar."""
    batch = own_positions(rows)
    labels = batch.pop("shift_labels").to(device := next(model.parameters()).device)
    logits = model(**{key: value.to(device) for key, value in batch.items() if key != "labels"}, use_cache=False).logits
    return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), labels.flatten())


def batch_loss(
    model: Any, rows: Sequence[SessionRow], config: DpoConfig
) -> tuple[torch.Tensor, tuple[float, float, float]]:
    """Returns the mean loss over the turns of ``rows`` and (margin, its target, accuracy), each a mean over turns."""
    return rows_loss(branch_log_probs(model, rows, config.blocks_from), rows, config)


def rows_loss(
    log_probs: torch.Tensor, rows: Sequence[SessionRow], config: DpoConfig
) -> tuple[torch.Tensor, tuple[float, float, float]]:
    """Returns what :func:`batch_loss` does, from the log-probs [n] of all alternatives of ``rows``, in order."""
    turns = [turn for row in rows for turn in row.turns]
    losses, figures = [], []
    for part, turn in zip(log_probs.split([len(turn.rewards) for turn in turns]), turns, strict=True):
        rewards, reference = part.new_tensor(turn.rewards), part.new_tensor(turn.reference)
        lengths = torch.tensor(turn.lengths, device=part.device)
        losses.append(target_loss(config.targets, part, reference, rewards, lengths, config.beta))
        best, worst = int(rewards.argmax()), int(rewards.argmin())
        margin = float(config.beta * ((part - reference)[best] - (part - reference)[worst]).detach())
        figures.append((margin, float(rewards[best] - rewards[worst]), float(margin > 0)))
    margin, target, accuracy = np.mean(figures, axis=0).tolist()
    return torch.stack(losses).mean(), (margin, target, accuracy)


def _last_position(row: SessionRow) -> int:
    ends = (branch.start + len(branch.ids) for branch in row.tree.branches)
    return max(len(row.tree.trunk), *ends, len(row.real["input_ids"]) if row.real else 0)
