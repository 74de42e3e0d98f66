"""A tree's log-probs and gradients are those of its branches' plain rows."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from rlenv.models.tree_batch import TokenBranch, TokenTree, tree_batch

TREES = (
    TokenTree(tuple(range(5, 17)), (TokenBranch(12, (7, 8, 9)), TokenBranch(12, (40,)), TokenBranch(4, (9, 9, 30, 2)))),
    TokenTree((3, 4, 5), (TokenBranch(1, (6, 7)), TokenBranch(3, (8, 9)))),
)


@pytest.fixture(scope="module")
def model(tiny_llama: Path):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)


def plain(model, tree: TokenTree, branch: TokenBranch) -> torch.Tensor:
    ids = torch.tensor([*tree.trunk[: branch.start], *branch.ids])
    log_probs = model(ids[None]).logits[0, :-1].log_softmax(-1)
    return log_probs.gather(1, ids[1:, None])[-len(branch.ids) :].sum()


def test_log_probs_are_those_of_plain_rows(model):
    batch = tree_batch(TREES)
    found = batch.log_probs(model(**batch.inputs("cpu")).logits)
    expected = torch.stack([plain(model, tree, branch) for tree in TREES for branch in tree.branches])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_gradients_are_those_of_plain_rows(model):
    weights = torch.tensor([1.0, -2.0, 0.5, 3.0, -1.0])

    def gradients(log_probs: torch.Tensor) -> list[torch.Tensor]:
        return list(torch.autograd.grad((log_probs * weights).sum(), list(model.parameters())))

    batch = tree_batch(TREES)
    found = gradients(batch.log_probs(model(**batch.inputs("cpu")).logits))
    expected = gradients(torch.stack([plain(model, tree, branch) for tree in TREES for branch in tree.branches]))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_tree_has_each_shared_token_once():
    assert TREES[0].num_tokens() == 12 + 2 + 0 + 3
    assert tree_batch(TREES).input_ids.shape == (2, 17)


def test_logits_are_needed_only_where_a_token_is_predicted():
    batch = tree_batch(TREES[:1])
    assert batch.kept.tolist() == [3, 11, 12, 13, 14, 15, 16]


@pytest.mark.parametrize("branch", [TokenBranch(0, (1,)), TokenBranch(4, (1,)), TokenBranch(2, ())])
def test_a_branch_outside_its_trunk_is_refused(branch: TokenBranch):
    with pytest.raises(ValueError, match="leaves a trunk of 3"):
        tree_batch([TokenTree((1, 2, 3), (branch,))])
