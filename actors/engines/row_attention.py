"""Attention of a batch whose rows are strangers: each row has keys and values of its own, of its own length.

Transformers calls ``BatchCache.update`` and then ``attend``, registered under ``NAME``, in every layer. Each row is
attended to as if it were alone, so its result cannot depend on the others, and rows join and leave at any step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

NAME = "rlenv_rows"


class RowCache:
    """Keys and values of one request, [heads, positions, d] per layer, with room for all it can become."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.length = 0
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def append(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes [heads, t, d] behind ``length`` and returns all so far, [1, heads, length + t, d]."""
        if layer not in self._layers:
            self._layers[layer] = tuple(x.new_empty(x.shape[0], self.capacity, x.shape[2]) for x in (keys, values))  # type: ignore[assignment]
        end = self.length + keys.shape[1]
        for store, new in zip(self._layers[layer], (keys, values), strict=True):
            store[:, self.length : end] = new
        all_keys, all_values = self._layers[layer]
        return all_keys[None, :, :end], all_values[None, :, :end]


class BatchCache:
    """The caches of the rows of one forward pass; rows beyond them are padding and are not attended to."""

    def __init__(self, rows: Sequence[RowCache]) -> None:
        self.rows = rows

    def update(self, keys: torch.Tensor, values: torch.Tensor, layer: int, *_: Any) -> tuple[list[Any], list[Any]]:
        """Appends [batch, heads, t, d] to the rows' caches; returns each row's keys and values so far."""
        pairs = [row.append(layer, keys[i], values[i]) for i, row in enumerate(self.rows)]
        return [k for k, _ in pairs], [v for _, v in pairs]

    def advance(self, tokens: int) -> None:
        """Moves all rows on by the tokens of this pass, once all layers have seen them."""
        for row in self.rows:
            row.length += tokens


def attend(
    module: Any,
    query: torch.Tensor,
    key: Sequence[torch.Tensor],
    value: Sequence[torch.Tensor],
    attention_mask: None,
    scaling: float | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Returns [batch, t, heads, d]; t > 1 only where a prompt is read from its start, hence causally."""
    out = torch.zeros_like(query)
    for i, (keys, values) in enumerate(zip(key, value, strict=True)):
        out[i] = scaled_dot_product_attention(
            query[i : i + 1], keys, values, is_causal=query.shape[2] > 1, scale=scaling, enable_gqa=True
        )[0]
    return out.transpose(1, 2).contiguous(), None
