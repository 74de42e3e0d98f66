"""What a layer keeps for its backward pass: the plan's formula against the tensors that autograd really saves."""

from __future__ import annotations

import pytest

from launch.plan.memory import layer_bytes
from launch.plan.shapes import ModelShape

SHAPE = ModelShape(
    hidden_size=64, num_layers=2, num_heads=4, num_kv_heads=2, head_dim=24, intermediate_size=160, vocab_size=50,
    max_positions=512,
)  # fmt: skip
TOKENS = 256


def saved_bytes(num_layers: int, dtype: str, rank: int | None, masked: bool) -> int:
    """Returns the bytes that the forward pass of a Llama saves, without weights and their copies."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    from trainers.backend.huggingface import linear_names

    config = LlamaConfig(
        hidden_size=SHAPE.hidden_size,
        num_hidden_layers=num_layers,
        num_attention_heads=SHAPE.num_heads,
        num_key_value_heads=SHAPE.num_kv_heads,
        head_dim=SHAPE.head_dim,
        intermediate_size=SHAPE.intermediate_size,
        vocab_size=SHAPE.vocab_size,
        use_cache=False,
    )
    autocast = dtype == "bfloat16"
    model = LlamaForCausalLM(config).to(torch.bfloat16 if autocast and rank else torch.float32)
    if rank:
        lora = LoraConfig(r=rank, target_modules=linear_names(model), task_type="CAUSAL_LM")
        model = get_peft_model(model, lora)
    found: dict[int, tuple[int, torch.Tensor]] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if TOKENS in tensor.shape:
            storage = tensor.untyped_storage()
            found[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    mask = {"attention_mask": torch.ones((1, 1, TOKENS, TOKENS), dtype=torch.bool).tril()} if masked else {}
    ids = torch.zeros((1, TOKENS), dtype=torch.long)
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast),
    ):
        model(input_ids=ids, logits_to_keep=1, **mask)
    return sum(size for size, _ in found.values())


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("rank", [8, None])
@pytest.mark.parametrize(("dtype", "num_bytes"), [("float32", 4), ("bfloat16", 2)])
def test_a_layer_saves_what_the_plan_counts(dtype, num_bytes, rank, masked):
    layer = saved_bytes(2, dtype, rank, masked) - saved_bytes(1, dtype, rank, masked)
    mask = TOKENS * num_bytes if masked else 0
    assert layer / TOKENS == layer_bytes(SHAPE, num_bytes, rank, masked) + mask
