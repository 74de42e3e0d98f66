"""The optimizers of models that are trained whole: Muon for the matrices, AdamW for the rest."""

from __future__ import annotations

from collections.abc import Iterable

import torch


def muon_optimizers(
    named_parameters: Iterable[tuple[str, torch.nn.Parameter]], rate: float, weight_decay: float
) -> list[torch.optim.Optimizer]:
    """Returns Muon for the matrices and AdamW for embeddings, norms and vectors, both at the same rate.

    Muon's orthogonal steps learn far more from few tokens: at 70 CPU seconds of population sessions each, a 4.0M
    model was left with 3.4 nats a held-out user token (rate 4e-3), against 5.2 under AdamW alone (6e-3), one run each.

    Args:
        named_parameters: those that are trained.
        rate: of Muon (scaled to AdamW's step size) and of AdamW.
        weight_decay: of the matrices.
    """
    matrices: list[torch.nn.Parameter] = []
    others: list[torch.nn.Parameter] = []
    for name, parameter in named_parameters:
        inner = parameter.ndim == 2 and "embed" not in name and "score" not in name
        (matrices if inner else others).append(parameter)
    muon = torch.optim.Muon(matrices, lr=rate, weight_decay=weight_decay, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    return [muon, torch.optim.AdamW(others, lr=rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True)]
