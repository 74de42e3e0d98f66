"""Learning-rate schedules and optimizers of our own loops; SFT, DPO and RL use transformers' own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from trainers.backend.config import Schedule
from trainers.backend.worker import Worker

SCHEDULERS: dict[Schedule, str] = {
    "constant": "constant_with_warmup",
    "linear": "linear",
    "cosine": "cosine",
    "wsd": "warmup_stable_decay",
}
"""The name in transformers of each of our schedules."""
WSD_DECAY = 0.4
"""Share of the steps over which ``wsd`` (warm-up, stable, decay) decays."""


def num_warmup_steps(warmup: float, total: int) -> int:
    """Returns the number of warm-up steps; ``warmup`` is a share of ``total`` if below 1, otherwise a number.

    >>> num_warmup_steps(0.1, 50), num_warmup_steps(3, 50)
    (5, 3)
    """
    return math.ceil(warmup * total) if warmup < 1 else int(warmup)


def rate_factors(schedule: Schedule, total: int, warmup: float) -> Callable[[int], float]:
    """Returns a function from the step (from 0) to the factor of the peak learning rate, in (0, 1].

    These are transformers' schedules without their first step, at which the rate is 0.

    Args:
        schedule: ``wsd`` is warm-up, then constant, then a linear decay over the last 40 % of the steps.
        total: optimizer steps of the run.
        warmup: linear under every schedule; a share of the steps if below 1, otherwise their number.

    >>> factor = rate_factors("linear", 4, 0)
    >>> [factor(step) for step in range(4)]
    [1.0, 0.75, 0.5, 0.25]
    """
    from transformers import get_scheduler

    name, specific = SCHEDULERS[schedule], None
    if schedule == "wsd":
        specific = {"num_decay_steps": max(1, round(WSD_DECAY * total)), "decay_type": "linear"}
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)  # a scheduler needs one; the factor does not depend on it
    scheduler = get_scheduler(name, optimizer, num_warmup_steps(warmup, total) + 1, total + 1, specific)
    (factor,) = scheduler.lr_lambdas
    return lambda step: float(factor(step + 1))


class Optimization:
    """The optimization state of a loop: trained weights, optimizers, schedule and losses so far.

    Args:
        module: the model; its parameters that require a gradient are trained.
        optimizers: the optimizers of these parameters.
        rate: peak learning rate.
        factor: the schedule, from ``rate_factors``.
        max_grad_norm: the norm of all gradients together is clipped to this.
        worker: gradients and losses are averaged over the workers of its run.
    """

    def __init__(
        self,
        module: torch.nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        rate: float,
        factor: Callable[[int], float],
        max_grad_norm: float,
        worker: Worker,
    ) -> None:
        self.module, self.optimizers, self.worker = module, optimizers, worker
        self.trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
        self.rate, self.factor, self.max_grad_norm = rate, factor, max_grad_norm
        self.losses: list[float] = []
        """The loss of each step so far, averaged over the workers."""

    def step(self, loss: float) -> float:
        """Takes one step with the module's accumulated gradients and clears them; returns the learning rate.

        Args:
            loss: this worker's loss, for the record.
        """
        rate = self.rate * self.factor(len(self.losses))
        trained = list(self.trained.values())
        average_gradients(trained, self.worker)
        torch.nn.utils.clip_grad_norm_(trained, self.max_grad_norm)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.losses.append(mean_over_workers(loss, self.worker))
        return rate

    def state(self) -> dict[str, Any]:
        """Returns the state for ``load``. It shares memory with the weights, so save it before the next step."""
        return {
            "model": {name: parameter.detach() for name, parameter in self.trained.items()},
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "losses": self.losses,
        }

    def load(self, file: Path) -> None:
        """Restores a state written by ``torch.save``."""
        state = torch.load(file, map_location=self.worker.device, weights_only=True)
        unknown = self.module.load_state_dict(state["model"], strict=False).unexpected_keys
        assert not unknown, f"{file} belongs to another model"
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.losses = state["losses"]

    def is_due(self, save_every: int, total: int) -> bool:
        """Returns whether to save a checkpoint now: every ``save_every`` steps (0: never), except after the last."""
        done = len(self.losses)
        return bool(save_every) and done % save_every == 0 and done < total


def average_gradients(parameters: Sequence[torch.nn.Parameter], worker: Worker) -> None:
    """Averages the gradients over the workers, once per step.

    Workers may split their batches into different numbers of parts. ``DistributedDataParallel`` would deadlock then,
    because it synchronises at every forward and backward pass. Equal seeds make the workers' initial weights equal.
    """
    if worker.world_size == 1:
        return
    gradients = []
    for parameter in parameters:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        gradients.append(parameter.grad)
    flat = torch.cat([gradient.flatten() for gradient in gradients])  # one all-reduce: each costs a round trip
    torch.distributed.all_reduce(flat)
    flat /= worker.world_size
    for gradient, part in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def mean_over_workers(loss: float, worker: Worker) -> float:
    """Returns the mean of the workers' losses, on every worker."""
    if worker.world_size == 1:
        return loss
    value = torch.tensor(loss, device=worker.device)
    torch.distributed.all_reduce(value)
    return float(value) / worker.world_size


def muon_optimizers(
    named_parameters: Iterable[tuple[str, torch.nn.Parameter]], rate: float, weight_decay: float
) -> list[torch.optim.Optimizer]:
    """Returns Muon for the matrices and AdamW for embeddings, norms and vectors, both at the same learning rate.

    Muon's orthogonalised steps learn far more from few tokens. After 70 CPU seconds of training on population sessions,
    a model of 4.0M parameters had a loss of 3.4 nats per held-out user token with Muon (rate 4e-3) and of 5.2 with
    AdamW alone (rate 6e-3); one run each.

    Args:
        named_parameters: the trained parameters.
        rate: learning rate of Muon (scaled to AdamW's step size) and of AdamW.
        weight_decay: weight decay of the matrices.
    """
    matrices: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    for name, parameter in named_parameters:
        inner = parameter.ndim == 2 and "embed" not in name and "score" not in name
        (matrices if inner else others).append(parameter)
    muon = torch.optim.Muon(matrices, lr=rate, weight_decay=weight_decay, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    return [muon, torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True)]
