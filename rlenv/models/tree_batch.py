"""Several continuations of one conversation in one forward pass: a trunk, and branches that leave it.

A row holds the trunk's tokens and then those of each branch. A branch sees the trunk up to the position where it leaves
it, and itself; its positions go on from there. So every log-prob equals that of the branch's own plain row, and tokens
that branches share are processed once. Needs torch; the model must take a 4-D attention mask (SDPA), or block masks
(``rlenv.models.attention``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rlenv.models.attention import attention_mask

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class TokenBranch:
    """Token ids that follow ``trunk[:start]``."""

    start: int
    """Number of the trunk's tokens that the branch sees, at least 1."""
    ids: tuple[int, ...]
    """At least one token."""


@dataclass(frozen=True)
class TokenTree:
    """A trunk and its branches."""

    trunk: tuple[int, ...]
    branches: tuple[TokenBranch, ...]

    def num_tokens(self) -> int:
        """Returns the length of the tree's row; a branch's last token predicts nothing and is not in it."""
        return len(self.trunk) + sum(len(branch.ids) - 1 for branch in self.branches)


@dataclass(frozen=True)
class TreeBatch:
    """Trees as one padded batch. Build it with :func:`tree_batch`."""

    input_ids: torch.Tensor
    """[B, n], padded on the right."""
    position_ids: torch.Tensor
    """[B, n]"""
    branches: torch.Tensor
    """[B, n], 0 in the trunk, the number of the branch within it, -1 in padding."""
    starts: torch.Tensor
    """[B, n], how many tokens of the trunk a branch's token sees; 0 outside branches."""
    kept: torch.Tensor
    """[K] columns of the batch whose logits are needed."""
    rows: torch.Tensor
    """[P] row of each predicted token."""
    columns: torch.Tensor
    """[P] index in ``kept`` of the column that predicts the token."""
    targets: torch.Tensor
    """[P] the predicted tokens: all tokens of all branches, in order."""
    branch_of: torch.Tensor
    """[P] the branch of each predicted token, counted over the batch."""
    num_branches: int

    def inputs(self, device: torch.device | str, blocks_from: int | None = None) -> dict[str, Any]:
        """Returns the arguments of the model's forward pass on ``device``; it gives logits [B, K, V].

        Args:
            device: where the model is.
            blocks_from: length of a row from which its mask is one of blocks; None never.
        """
        return {
            "attention_mask": attention_mask(self.branches.to(device), self.starts.to(device), blocks_from),
            "input_ids": self.input_ids.to(device),
            "position_ids": self.position_ids.to(device),
            "logits_to_keep": self.kept.to(device),
            "use_cache": False,
        }

    def log_probs(self, logits: torch.Tensor) -> torch.Tensor:
        """Returns the log-prob of each branch, the sum over its tokens, [num_branches] in float32.

        Args:
            logits: [B, K, V], the model's output for :meth:`inputs`.
        """
        device = logits.device
        at = logits[self.rows.to(device), self.columns.to(device)].float()
        each = at.log_softmax(-1).gather(1, self.targets.to(device)[:, None])[:, 0]
        return each.new_zeros(self.num_branches).index_add(0, self.branch_of.to(device), each)


def tree_batch(trees: Sequence[TokenTree]) -> TreeBatch:
    """Returns the trees as one batch.

    Raises:
        ValueError: a branch has no tokens, or leaves the trunk outside it.
    """
    import torch

    for tree in trees:
        size = len(tree.trunk)
        if any(not branch.ids or not 1 <= branch.start <= size for branch in tree.branches):
            raise ValueError(f"expected branches with tokens each of which leaves a trunk of {size} at 1 to {size}")
    width = max(tree.num_tokens() for tree in trees)
    input_ids = torch.zeros((len(trees), width), dtype=torch.long)
    position_ids = torch.zeros((len(trees), width), dtype=torch.long)
    branches = torch.full((len(trees), width), -1, dtype=torch.long)
    starts = torch.zeros((len(trees), width), dtype=torch.long)
    rows: list[int] = []
    columns: list[int] = []
    targets: list[int] = []
    branch_of: list[int] = []
    count = 0
    for row, tree in enumerate(trees):
        size = len(tree.trunk)
        input_ids[row, :size] = torch.tensor(tree.trunk)
        position_ids[row, :size] = torch.arange(size)
        branches[row, :size] = 0
        end = size
        for number, branch in enumerate(tree.branches, 1):
            length = len(branch.ids) - 1
            here = slice(end, end + length)
            input_ids[row, here] = torch.tensor(branch.ids[:-1], dtype=torch.long)
            position_ids[row, here] = torch.arange(branch.start, branch.start + length)
            branches[row, here], starts[row, here] = number, branch.start
            rows.extend([row] * (length + 1))
            columns.extend([branch.start - 1, *range(end, end + length)])
            targets.extend(branch.ids)
            branch_of.extend([count] * (length + 1))
            end += length
            count += 1
    kept, index = torch.unique(torch.tensor(columns, dtype=torch.long), return_inverse=True)
    return TreeBatch(
        input_ids=input_ids,
        position_ids=position_ids,
        branches=branches,
        starts=starts,
        kept=kept,
        rows=torch.tensor(rows, dtype=torch.long),
        columns=index,
        targets=torch.tensor(targets, dtype=torch.long),
        branch_of=torch.tensor(branch_of, dtype=torch.long),
        num_branches=count,
    )
