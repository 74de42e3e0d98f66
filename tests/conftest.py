"""What several folders of tests share: a random Llama small enough to train in a test, and a real small chat model."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session")
def tiny_shape():
    """The settings of a small Llama that trains in a second: one layer of width 32, 320 tokens, blocks of 128."""
    from trainers.pretrain.config import PretrainConfig

    return PretrainConfig(
        vocab_size=320,
        hidden_size=32,
        num_layers=1,
        num_heads=2,
        intermediate_size=64,
        max_positions=256,
        block_tokens=128,
        batch_tokens=256,
        dtype="float32",
        save_every=0,
    )


@pytest.fixture(scope="session")
def tiny_llama(tiny_shape, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder: two layers of width 32, random weights, a byte-level tokenizer with the ChatML template."""
    import torch

    from rlenv.prompting.chat_format import chat_format
    from trainers.pretrain.loop import new_llama, train_tokenizer

    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = replace(tiny_shape, num_layers=2, max_positions=1024)
    tokenizer = train_tokenizer(["user assistant system a few plain words to learn merges from"], 320, 1024)
    folder = tmp_path_factory.mktemp("tiny_llama")
    new_llama(config, chat_format(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder: the real SmolLM2-135M-Instruct, in bfloat16."""
    from importlib.util import find_spec

    from rlenv.models.named import PACKAGE, load_smollm2

    if find_spec(PACKAGE) is None:
        pytest.skip("SmolLM2 is not installed (see launch/install.sh)")
    return load_smollm2(tmp_path_factory.mktemp("models") / "smollm2-135m-instruct")
