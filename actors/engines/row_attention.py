"""Attention for a batch of unrelated rows: each row has its own keys and values, of its own length.

In every layer, transformers calls ``BatchCache.update`` and then ``attend``, which is registered as ``NAME``. Each row
is computed separately, so its result cannot depend on the others, and rows can join and leave at any step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

NAME = "rlenv_rows"


class RowCache:
    """Keys and values of one request, [heads, positions, d] per layer, with room for its longest reply."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.length = 0
        self._layers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def append(self, layer: int, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Writes [heads, t, d] after ``length`` and returns all so far, [1, heads, length + t, d]."""
        if layer not in self._layers:
            self._layers[layer] = tuple(x.new_empty(x.shape[0], self.capacity, x.shape[2]) for x in (keys, values))  # type: ignore[assignment]
        end = self.length + keys.shape[1]
        for store, new in zip(self._layers[layer], (keys, values), strict=True):
            store[:, self.length : end] = new
        all_keys, all_values = self._layers[layer]
        return all_keys[None, :, :end], all_values[None, :, :end]

    def copy(self, other: RowCache) -> None:
        """Takes over all that ``other`` holds; this cache must be empty."""
        for layer, (keys, values) in other._layers.items():
            self.append(layer, keys[:, : other.length], values[:, : other.length])
        self.length = other.length


class BatchCache:
    """The caches of the rows of one forward pass; further rows are padding and are not computed."""

    def __init__(self, rows: Sequence[RowCache]) -> None:
        self.rows = rows

    def update(self, keys: torch.Tensor, values: torch.Tensor, layer: int, *_: Any) -> tuple[list[Any], list[Any]]:
        """Appends [batch, heads, t, d] to the rows' caches; returns each row's keys and values so far."""
        pairs = [row.append(layer, keys[i], values[i]) for i, row in enumerate(self.rows)]
        return [k for k, _ in pairs], [v for _, v in pairs]

    def advance(self, tokens: int) -> None:
        """Advances all rows by the tokens of this pass, after all layers have processed them."""
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
    """Returns [batch, t, heads, d]; t > 1 only for a prompt read from its start, which is attended to causally."""
    out = torch.zeros_like(query)
    for i, (keys, values) in enumerate(zip(key, value, strict=True)):
        out[i] = scaled_dot_product_attention(
            query[i : i + 1], keys, values, is_causal=query.shape[2] > 1, scale=scaling, enable_gqa=True
        )[0]
    return out.transpose(1, 2).contiguous(), None
