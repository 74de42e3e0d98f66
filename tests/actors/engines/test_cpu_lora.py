"""LoRA by rows equals vLLM's own per-token LoRA, row by row whatever stands beside it, and leaves bare rows alone."""

from __future__ import annotations

import pytest
import torch

pytestmark = pytest.mark.vllm
SIZES = (64, 32, 32)


def _layer(dtype: torch.dtype, n: int):
    torch.manual_seed(0)
    a = [torch.randn(3, 1, 8, 1600).to(dtype) * 0.05 for _ in SIZES]
    b = [torch.randn(3, 1, size, 8).to(dtype) * 0.05 for size in SIZES]
    return torch.randn(n, sum(SIZES)).to(dtype), torch.randn(n, 1600).to(dtype), a, b


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("slots", [[0], [2] * 40, [0, 1, 1, 0, 1, 2, 2]])
def test_rows_with_an_adapter_get_what_vllm_gives_them(dtype, slots):
    from vllm.lora.ops.torch_ops import bgmv_expand_slice, bgmv_shrink

    from actors.engines.cpu_lora import add_lora, row_groups

    index = torch.tensor(slots)
    y, x, a, b = _layer(dtype, len(slots))
    expected, got, start = y.clone(), y.clone(), 0
    for a_slice, b_slice, size in zip(a, b, SIZES, strict=True):
        low = torch.zeros(len(slots), 8)
        bgmv_shrink(x, a_slice, low, index, 1.0)
        bgmv_expand_slice(low, b_slice, expected, index, start, size, True)
        start += size
    add_lora(got, x, row_groups(index), a, b, 1.0, SIZES)
    torch.testing.assert_close(got, expected, rtol=1e-5 if dtype == torch.float32 else 1e-2, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_rows_result_is_bitwise_the_same_in_any_batch_and_bare_rows_are_untouched(dtype):
    from actors.engines.cpu_lora import add_lora, row_groups

    index = torch.tensor([0, -1, 2, 1, -1, 2, 0] * 9)
    y, x, a, b = _layer(dtype, len(index))
    together = y.clone()
    add_lora(together, x, row_groups(index), a, b, 1.0, SIZES)
    for i, slot in enumerate(index.tolist()):
        alone = y[i : i + 1].clone()
        add_lora(alone, x[i : i + 1], row_groups(index[i : i + 1]), a, b, 1.0, SIZES)
        assert torch.equal(alone[0], together[i])
        assert torch.equal(alone[0], y[i]) == (slot == -1)
