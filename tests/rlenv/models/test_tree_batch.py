"""A tree's log-probs and gradients are those of its branches' plain rows."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from rlenv.models.attention import block_mask, dense_mask, take_block_masks
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


def test_a_token_sees_its_branch_up_to_itself_and_the_trunk_up_to_where_the_branch_leaves():
    batch = tree_batch([TokenTree((1, 2, 3), (TokenBranch(1, (6, 7)), TokenBranch(3, (8, 9, 4))))])
    seen = ["x.....", "xx....", "xxx...", "x..x..", "xxx.x.", "xxx.xx"]
    assert dense_mask(batch.branches, batch.starts)[0, 0].tolist() == [[c == "x" for c in row] for row in seen]


def test_a_block_mask_says_the_same_as_a_dense_one():
    from torch.nn.attention.flex_attention import create_mask

    batch = tree_batch(TREES)
    dense, blocks = (mask(batch.branches, batch.starts) for mask in (dense_mask, block_mask))
    assert torch.equal(create_mask(blocks.mask_mod, *dense.shape, device="cpu"), dense)


def test_a_model_that_takes_block_masks_is_unchanged_by_dense_ones(tiny_llama: Path, model):
    from transformers import AutoModelForCausalLM

    other = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)
    take_block_masks(other, 1)
    inputs = tree_batch(TREES).inputs("cpu")
    assert torch.equal(other(**inputs).logits, model(**inputs).logits)
    plain_row = torch.tensor([[5, 6, 7, 8]])
    assert torch.equal(other(plain_row).logits, model(plain_row).logits)


@pytest.mark.exhaustive  # compiling takes half a minute
@pytest.mark.skipif(shutil.which("g++") is None, reason="FlexAttention needs a C++ compiler on a CPU")
def test_log_probs_by_block_masks_are_those_by_a_dense_one(tiny_llama: Path):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32).eval()
    take_block_masks(model, 100)
    trunk = tuple(range(3, 203))  # more than one block
    batch = tree_batch([TokenTree(trunk, (TokenBranch(150, (7, 8, 9)), TokenBranch(200, (9, 9, 30, 2)))), *TREES])
    with torch.no_grad():
        blocks, dense = (batch.log_probs(model(**batch.inputs("cpu", start)).logits) for start in (100, None))
    torch.testing.assert_close(blocks, dense, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("branch", [TokenBranch(0, (1,)), TokenBranch(4, (1,)), TokenBranch(2, ())])
def test_a_branch_outside_its_trunk_is_refused(branch: TokenBranch):
    with pytest.raises(ValueError, match="leaves a trunk of 3"):
        tree_batch([TokenTree((1, 2, 3), (branch,))])
