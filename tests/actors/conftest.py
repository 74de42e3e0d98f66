"""A small random Llama with two versions of an adapter, and one local Ray for the folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlenv.core.adapters import adapter_at
from rlenv.core.types import Adapter

VOCAB = 512


def _fill(module, std: float, only: str = "") -> None:
    import torch

    for name, parameter in module.named_parameters():
        if only in name and parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=std)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Adapter, Adapter]:
    """Returns the folder of a chat model and two versions of its adapter, random enough to differ at once.

    Its heads have width 32, the least that vLLM's attention takes on a CPU.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    from trainers.pretrain.loop import train_tokenizer

    root: Path = tmp_path_factory.mktemp("tiny")
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            hidden_size=64, intermediate_size=160, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
            vocab_size=VOCAB, max_position_embeddings=4096,
        )
    )  # fmt: skip
    _fill(model, 0.2)
    model.save_pretrained(root / "model")
    tokenizer = train_tokenizer(["user assistant system a few plain words to learn merges from"], 320, 4096)
    tokenizer.save_pretrained(root / "model")
    peft = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    for version in ("it1", "it2"):
        _fill(peft, 0.15, only="lora_")
        peft.save_pretrained(root / version)
    return str(root / "model"), adapter_at(root / "it1", "it1"), adapter_at(root / "it2", "it2")


@pytest.fixture(scope="session")
def cluster(local_ray: None) -> None:
    """A local Ray of two CPUs."""
