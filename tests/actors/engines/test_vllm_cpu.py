"""The products of a layer on vLLM's CPU platform give a row the same bits, however many rows stand beside it."""

from __future__ import annotations

import pytest
import torch

pytestmark = pytest.mark.vllm

# Outputs and inputs of layers of the packaged Llama (logits, down) and of SmolLM2-135M (gate and up, down).
SHAPES = ((4096, 192), (192, 512), (3072, 576), (576, 1536))


@pytest.mark.parametrize(
    "dtype",
    [
        torch.float32,
        pytest.param(
            torch.bfloat16,
            marks=pytest.mark.skipif(
                not torch.cpu._is_avx512_supported(), reason="oneDNN has no bfloat16 product on this CPU"
            ),
        ),
    ],
)
@pytest.mark.parametrize(("outputs", "inputs"), SHAPES)
def test_a_rows_product_is_bitwise_the_same_among_any_number_of_rows(monkeypatch, dtype, outputs, inputs):
    from vllm import _custom_ops
    from vllm.model_executor.layers import utils
    from vllm.platforms import current_platform

    from actors.engines.vllm_cpu import install_invariant_products

    current_platform.import_kernels()
    for module, name in (
        (_custom_ops, "onednn_mm"),
        (_custom_ops, "weight_packed_linear_cpu"),
        (utils, "_CPU_SGL_GEMM_MAX_WEIGHT_BYTES"),
    ):
        monkeypatch.setattr(module, name, getattr(module, name))  # put back afterwards
    install_invariant_products()
    torch.manual_seed(0)
    x = torch.randn(700, inputs).to(dtype)
    layer = torch.nn.Linear(inputs, outputs, bias=False, dtype=dtype)
    layer.requires_grad_(False)
    weight = layer.weight.clone()
    utils.dispatch_cpu_unquantized_gemm(layer, remove_weight=False)

    whole = layer.cpu_linear(x, layer.weight, None)

    torch.testing.assert_close(whole.float(), x.float() @ weight.float().T, rtol=0.02, atol=0.02)
    for n in (1, 2, 4, 7, 8, 9, 32, 33, 64, 300, 511):
        assert torch.equal(layer.cpu_linear(x[:n], layer.weight, None), whole[:n]), n
