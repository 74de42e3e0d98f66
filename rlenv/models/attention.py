"""Who sees whom in a row with branches, and an attention that takes it as block masks where rows are long.

A dense mask has a number for each pair of tokens. FlexAttention's block masks have a few for each pair of blocks of 128
tokens, and skip blocks in which no token sees another. They need a GPU to be worth it, and for a backward pass at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch.nn.attention.flex_attention import BlockMask

SDPA_OR_BLOCKS = "sdpa_or_blocks"
"""The attention's name in transformers: FlexAttention if the mask is a ``BlockMask``, SDPA for every other."""


def take_block_masks(model: Any, blocks_from: int | None) -> None:
    """Makes ``model``, of transformers and without an adapter, take block masks beside dense ones; weights stay.

    It is left as it is where ``blocks_from`` is None, since it will be given none.
    """
    if blocks_from is None:
        return
    from transformers import AttentionInterface
    from transformers.integrations.flex_attention import flex_attention_forward
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    def attention(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **options: Any) -> Any:
        dense = attention_mask is None or hasattr(attention_mask, "dtype")
        forward = sdpa_attention_forward if dense else flex_attention_forward
        return forward(module, query, key, value, attention_mask, **options)

    AttentionInterface.register(SDPA_OR_BLOCKS, attention)
    AttentionMaskInterface.register(SDPA_OR_BLOCKS, sdpa_mask)
    model.set_attn_implementation(SDPA_OR_BLOCKS)


def attention_mask(branches: torch.Tensor, starts: torch.Tensor, blocks_from: int | None) -> Any:
    """Returns a model's ``attention_mask`` for a batch's ``branches`` and ``starts``, on their device.

    It is dense, a ``BlockMask`` from ``blocks_from`` tokens on, or None without branches: a causal mask is enough.
    """
    if not (branches > 0).any():
        return None
    blocks = blocks_from is not None and branches.shape[1] >= blocks_from
    return (block_mask if blocks else dense_mask)(branches, starts)


def dense_mask(branches: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
    """Returns [B, 1, n, n], True where a token (row) sees another (column).

    Args:
        branches: [B, n], 0 in the trunk, the number of the branch within it, -1 in padding.
        starts: [B, n], how many tokens of the trunk a branch's token sees; 0 outside branches.
    """
    places = branches.new_ones(branches.shape[1]).cumsum(0) - 1
    return _sees(
        branches[:, :, None], branches[:, None, :], starts[:, :, None], places[None, :, None], places[None, None, :]
    )[:, None]


def block_mask(branches: torch.Tensor, starts: torch.Tensor) -> BlockMask:
    """Returns the same as :func:`dense_mask`, as a mask of blocks on the tensors' device."""
    from torch.nn.attention.flex_attention import create_block_mask

    def sees(row: Any, _: Any, query: Any, key: Any) -> Any:
        return _sees(branches[row, query], branches[row, key], starts[row, query], query, key)

    rows, size = branches.shape
    return create_block_mask(sees, rows, None, size, size, device=branches.device, _compile=branches.is_cuda)


def _sees(query_branch: Any, key_branch: Any, start: Any, query: Any, key: Any) -> Any:
    """Returns whether a token sees another: itself and those before it in its branch, and the trunk up to its start."""
    return ((query_branch == key_branch) & (key <= query)) | ((key_branch == 0) & (key < start))
