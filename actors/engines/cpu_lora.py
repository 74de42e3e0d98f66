"""LoRA on vLLM's CPU platform: the rows of each adapter are multiplied together, rows without one are not changed.

vLLM's own CPU version copies an adapter's matrices once per token. It also applies the last slot's adapter to tokens
without one (index -1) if another request of the batch has one. Here each adapter's rows are gathered, padded to a
multiple of ``ROWS`` and multiplied at once. The padding also makes a row's result independent of the number of rows:
for a single row BLAS uses another kernel with another order of summation.

``vllm_cpu.py`` installs it; needs vLLM.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import linear, pad
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

ROWS = 16
RowGroup = tuple[int, slice | torch.Tensor]


def row_groups(slots: torch.Tensor) -> list[RowGroup]:
    """Returns (adapter slot, its rows) for each adapter in the batch; rows of slot -1 have no adapter.

    >>> row_groups(torch.tensor([0, 0])), row_groups(torch.tensor([-1, 1]))
    ([(0, slice(0, 2, None))], [(1, tensor([1]))])
    """
    present = [slot for slot in torch.unique(slots).tolist() if slot >= 0]
    if len(present) == 1 and bool((slots == present[0]).all()):
        return [(present[0], slice(0, slots.shape[0]))]
    return [(slot, (slots == slot).nonzero().squeeze(1)) for slot in present]


def add_lora(
    y: torch.Tensor,
    x: torch.Tensor,
    groups: Sequence[RowGroup],
    a_stacked: Sequence[torch.Tensor],
    b_stacked: Sequence[torch.Tensor],
    scale: float,
    sizes: Sequence[int],
) -> None:
    """Adds ``scale * x A^T B^T`` to ``y`` in place, for each row with its own adapter.

    Args:
        y: [n, sum(sizes)], the layer's output, for example q, k and v side by side.
        x: [n, d], the layer's input.
        groups: from ``row_groups``.
        a_stacked: for each slice, [slots, 1, r, d].
        b_stacked: for each slice, [slots, 1, size, r].
        scale: the factor that vLLM passes; the adapters' own scaling is already in B.
        sizes: widths of the slices of ``y``.
    """
    for slot, rows in groups:
        n = x.shape[0] if isinstance(rows, slice) else rows.shape[0]
        inputs = pad(x[rows], (0, 0, 0, -n % ROWS)).float()
        start = 0
        for a, b, size in zip(a_stacked, b_stacked, sizes, strict=True):
            low = linear(inputs, a[slot, 0].float()).mul_(scale).to(y.dtype)
            added = linear(low, b[slot, 0].to(y.dtype))[:n, :size]
            part = y[:, start : start + added.shape[1]]
            if isinstance(rows, slice):
                part += added
            else:
                part.index_add_(0, rows, added)
            start += size


class GroupedLora(PunicaWrapperCPU):
    """vLLM's CPU LoRA, with ``add_lora`` for linear layers and logits."""

    _groups: list[RowGroup] = []  # noqa: RUF012  (replaced, never changed)
    _sampler_groups: list[RowGroup] = []  # noqa: RUF012

    def update_metadata(self, *args: Any, **kwargs: Any) -> None:
        super().update_metadata(*args, **kwargs)
        self._groups = row_groups(self.token_lora_indices)
        self._sampler_groups = row_groups(self.sampler_indices)

    def add_lora_linear(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: tuple[torch.Tensor, ...],
        lora_b_stacked: tuple[torch.Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        *,
        buffer: tuple[torch.Tensor, ...] | None = None,
        **kwargs: Any,
    ) -> None:
        flat_y, flat_x = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
        add_lora(flat_y, flat_x, self._groups, lora_a_stacked, lora_b_stacked, scale, output_slices)

    def add_lora_logits(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: torch.Tensor,
        lora_b_stacked: torch.Tensor,
        scale: float,
        *,
        buffer: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> None:
        flat_y, flat_x = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
        sizes = (min(flat_y.shape[-1], lora_b_stacked.shape[-2]),)
        add_lora(flat_y, flat_x, self._sampler_groups, (lora_a_stacked,), (lora_b_stacked,), scale, sizes)
