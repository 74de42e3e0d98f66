"""TRL's ``DPOTrainer`` on preference pairs (Eq. 5) that share their conversation: each prompt is read once.

TRL takes rows [chosen ..., rejected ...] and computes losses, the reference and metrics from the backbone's hidden
states. Here a row is the last token of its prompt and the reply. Below the LM head the batch is read as trees, whose
trunks are prompts and whose branches are replies (``rlenv.models.tree_batch``), and each row is given the hidden states
of its tokens. All above is TRL's own code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MethodType
from typing import Any

import numpy as np
import torch
from torch.utils.data import Sampler
from trl import DPOTrainer

from rlenv.models.attention import attention_mask
from rlenv.models.tree_batch import TokenBranch, TokenTree, tree_batch

TREE = "tree"
"""The key of a batch under which :func:`collate` puts what the backbone reads."""


class PairsTrainer(DPOTrainer):
    """Trains on a dataset with ``prompt_ids``, ``chosen_ids`` and ``rejected_ids``.

    The policy is a trainable ``PeftModel``; TRL copies its adapter into the frozen reference. Pairs of a session follow
    each other, so that those within a batch share its tokens; sessions are shuffled. ``blocks_from`` is that of
    :func:`read_trees`.
    """

    def __init__(
        self, model: Any, args: Any, train_dataset: Any, blocks_from: int | None = None, **options: Any
    ) -> None:
        read_trees(model.get_base_model(), blocks_from)
        self.sessions = sessions_of(train_dataset["prompt_ids"])
        super().__init__(model=model, args=args, train_dataset=train_dataset, data_collator=collate, **options)

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset  # token ids are trained on as they were sampled

    def _get_train_sampler(self, train_dataset: Any = None) -> SessionSampler:
        return SessionSampler(self.sessions, self.args.seed)


class SessionSampler(Sampler[int]):
    """Shuffles sessions and keeps the pairs of each together; an epoch's order follows from the seed alone."""

    def __init__(self, sessions: Sequence[Sequence[int]], seed: int) -> None:
        self.sessions, self.seed, self.epoch = sessions, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch whose order comes next; accelerate calls it."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(len(self.sessions))
        return (pair for session in order for pair in self.sessions[session])

    def __len__(self) -> int:
        return sum(map(len, self.sessions))


def sessions_of(prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    """Returns the indices of the prompts by session: neighbours of which one begins with the other.

    >>> sessions_of([[1, 2], [1, 2, 3], [4]])
    [[0, 1], [2]]
    """
    sessions: list[list[int]] = []
    for index, prompt in enumerate(prompts):
        before = prompts[index - 1] if index else None
        if before is not None and (_begins_with(before, prompt) or _begins_with(prompt, before)):
            sessions[-1].append(index)
        else:
            sessions.append([index])
    return sessions


def _begins_with(ids: Sequence[int], start: Sequence[int]) -> bool:
    return list(ids[: len(start)]) == list(start)


def collate(pairs: Sequence[Mapping[str, Sequence[int]]]) -> dict[str, Any]:
    """Returns the batch of ``pairs``, n of them with replies of at most T - 1 tokens.

    ``input_ids``, ``attention_mask`` and ``completion_mask`` are [2n, T], the chosen rows first; a row is the last
    token of the prompt, the reply and padding. Under :data:`TREE` are the ``input_ids``, ``position_ids``, ``branches``
    and ``starts`` of the trees, and ``rows`` and ``columns`` [2n, T], the place there of each token's hidden state.
    """
    trees, order = _trees(pairs)
    batch = tree_batch(trees)
    replies = [pair[key] for key in ("chosen_ids", "rejected_ids") for pair in pairs]
    size = 1 + max(map(len, replies))
    ids, rows, columns = (torch.zeros((len(replies), size), dtype=torch.long) for _ in range(3))
    places = torch.stack((batch.rows, batch.kept[batch.columns]))
    start = 0
    for row in order:
        reply = replies[row]
        end = start + len(reply)
        ids[row, : len(reply) + 1] = torch.tensor([pairs[row % len(pairs)]["prompt_ids"][-1], *reply])
        rows[row, : len(reply)], columns[row, : len(reply)] = places[:, start:end]
        start = end
    lengths = torch.tensor([[1 + len(reply)] for reply in replies])
    real = (torch.arange(size) < lengths).long()
    completion = real.clone()
    completion[:, 0] = 0
    read = {key: getattr(batch, key) for key in ("input_ids", "position_ids", "branches", "starts")}
    return {
        "input_ids": ids,
        "attention_mask": real,
        "completion_mask": completion,
        TREE: {**read, "rows": rows, "columns": columns},
    }


def _trees(pairs: Sequence[Mapping[str, Sequence[int]]]) -> tuple[list[TokenTree], list[int]]:
    """Returns the trees, and for each branch in turn the row that it is: i for pair i's chosen reply, n + i for the
    rejected one."""
    longest_first = sorted(range(len(pairs)), key=lambda i: -len(pairs[i]["prompt_ids"]))
    trunks: list[tuple[Sequence[int], list[int]]] = []
    for i in longest_first:
        prompt = pairs[i]["prompt_ids"]
        trunk = next((members for ids, members in trunks if _begins_with(ids, prompt)), None)
        if trunk is None:
            trunks.append((prompt, [i]))
        else:
            trunk.append(i)
    trees, order = [], []
    for trunk_ids, members in trunks:
        branches = []
        for i in members:
            for key, row in (("chosen_ids", i), ("rejected_ids", len(pairs) + i)):
                branches.append(TokenBranch(len(pairs[i]["prompt_ids"]), tuple(pairs[i][key])))
                order.append(row)
        trees.append(TokenTree(tuple(trunk_ids), tuple(branches)))
    return trees, order


def read_trees(model: Any, blocks_from: int | None = None) -> None:
    """Makes the backbone of ``model``, a causal language model, read what :func:`collate` puts under :data:`TREE`.

    A forward pass with it gives the last hidden states [2n, T, H] of the rows; without it nothing changes.

    Args:
        model: the causal language model.
        blocks_from: length of a tree from which its mask is one of blocks; the model must take such masks.
    """
    backbone = model.base_model
    plain = backbone.forward

    def forward(self: Any, *args: Any, tree: dict[str, Any] | None = None, **kwargs: Any) -> Any:
        if tree is None:
            return plain(*args, **kwargs)
        tree = dict(tree)
        rows, columns = tree.pop("rows"), tree.pop("columns")
        mask = attention_mask(tree.pop("branches"), tree.pop("starts"), blocks_from)
        rest = {key: value for key, value in kwargs.items() if key not in ("input_ids", "attention_mask")}
        outputs = plain(**rest, **tree, attention_mask=mask)
        outputs.last_hidden_state = outputs.last_hidden_state[rows, columns]
        return outputs

    backbone.forward = MethodType(forward, backbone)
