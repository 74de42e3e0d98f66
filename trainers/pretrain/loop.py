"""The loop behind ``fit_base_model``: tokenizer, packing, and whole-model training of a small Llama.

Runs on Ray Train's workers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rlenv.core.errors import PhaseError
from rlenv.core.seeds import derive_seed
from rlenv.models.hardware import resolve_precision
from rlenv.prompting.chat_format import ChatFormat, chat_format
from trainers.backend.fit import last_tenth_mean
from trainers.backend.optimization import Optimization, muon_optimizers, rate_factors
from trainers.backend.worker import Worker, seed_everything

if TYPE_CHECKING:
    from trainers.pretrain.config import PretrainConfig
    from trainers.sft.config import SftExample

SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def train_tokenizer(texts: Iterable[str], vocab_size: int, max_positions: int) -> Any:
    """Returns a byte-level BPE tokenizer (any text round-trips) with the ChatML template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|im_end|>",
        unk_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
        chat_template=CHATML,
        model_max_length=max_positions,
        clean_up_tokenization_spaces=False,
    )


def new_llama(config: PretrainConfig, chat: ChatFormat) -> Any:
    """Returns a ``LlamaForCausalLM`` of the configured shape with random weights and tied embeddings."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=-(-len(chat.tokenizer) // 64) * 64,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_heads,
            max_position_embeddings=config.max_positions,
            tie_word_embeddings=True,
            bos_token_id=chat.tokenizer.bos_token_id,
            eos_token_id=chat.end_of_turn,
            pad_token_id=chat.tokenizer.pad_token_id,
        )
    )


def pack(
    examples: Sequence[SftExample], chat: ChatFormat, block: int, seed: int, other_weight: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Returns all conversations as one shuffled stream, cut into token ids and their weights, both [blocks, block + 1].

    Every conversation ends with the end-of-session token. Neighbouring blocks share one token: the last target of one
    is the first input of the next.
    """
    order = np.random.default_rng(seed).permutation(len(examples))
    stream: list[int] = []
    weights: list[float] = []
    for i in order:
        example = examples[int(i)]
        ids, own = chat.training_example(example.system, example.messages, example.seat)
        if chat.end_of_session not in ids[-1 - len(chat.own.after) :]:
            ids, own = [*ids, chat.end_of_session], [*own, 0]
        stream.extend(ids)
        weights.extend(1.0 if each else other_weight for each in own)
    blocks = (len(stream) - 1) // block
    if blocks == 0:
        weights.extend([other_weight] * (block + 1 - len(stream)))
        stream.extend([chat.end_of_session] * (block + 1 - len(stream)))
        blocks = 1
    ids_of, weight_of = np.asarray(stream, np.int64), np.asarray(weights, np.float32)
    windows = np.lib.stride_tricks.sliding_window_view
    return windows(ids_of, block + 1)[::block][:blocks], windows(weight_of, block + 1)[::block][:blocks]


def train_base_model(payload: tuple[Any, PretrainConfig, str], worker: Worker) -> dict[str, Any]:
    """Returns the summary of a run; rank 0 writes the checkpoint."""
    examples, config, out_dir = payload
    seed_everything(config.seed)
    tokenizer, model = _start(examples, config)
    chat, model = chat_format(tokenizer, "<|endoftext|>"), model.to(worker.device)
    losses, speed, num_tokens = _train(model, examples, chat, config, worker)
    if worker.rank == 0:
        model.save_pretrained(out_dir)
        tokenizer.save_pretrained(out_dir)
    return {
        "num_parameters": sum(p.numel() for p in model.parameters()),
        "num_tokens": num_tokens,
        "loss_last": last_tenth_mean(losses),
        "tokens_per_second": speed,
    }


def _start(examples: Sequence[SftExample], config: PretrainConfig) -> tuple[Any, Any]:
    """Returns the tokenizer and the model that the training begins with."""
    if config.start:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(config.start)
        return tokenizer, AutoModelForCausalLM.from_pretrained(config.start, dtype=torch.float32)
    tokenizer = train_tokenizer(_texts(examples), config.vocab_size, config.max_positions)
    return tokenizer, new_llama(config, chat_format(tokenizer, "<|endoftext|>"))


def _train(
    model: Any, examples: Sequence[SftExample], chat: ChatFormat, config: PretrainConfig, worker: Worker
) -> tuple[list[float], float, int]:
    """Returns (loss of each step, tokens per second since the last start, tokens of one epoch)."""
    per_step = max(1, config.batch_tokens // config.block_tokens)
    epochs = [
        pack(examples, chat, config.block_tokens, derive_seed(config.seed, "pack", epoch), config.other_weight)
        for epoch in range(math.ceil(config.epochs))
    ]
    blocks, weights = (np.concatenate(each) for each in zip(*epochs, strict=True))
    blocks = blocks[: max(1, round(config.epochs * len(epochs[0][0])))]
    total = max(1, len(blocks) // (per_step * worker.world_size))
    if len(blocks) < per_step * worker.world_size and worker.world_size > 1:
        raise PhaseError(
            f"pretrain: one step needs {per_step * worker.world_size} blocks of {config.block_tokens} tokens, got "
            f"{len(blocks)}; give more conversations, or train with fewer workers"
        )
    optimization = Optimization(
        model,
        muon_optimizers(model.named_parameters(), config.learning_rate, config.weight_decay),
        config.learning_rate,
        rate_factors(config.schedule, total, config.warmup),
        config.max_grad_norm,
        worker,
    )
    with worker.resume() as folder:
        if folder:
            optimization.load(folder / "state.pt")
    model.train()
    worker.progress.begin()
    started, resumed_at = time.monotonic(), len(optimization.losses)
    for step in range(resumed_at, total):
        start = (step * worker.world_size + worker.rank) * per_step
        ids, weight = (
            torch.from_numpy(each[start : start + per_step].copy()).to(worker.device) for each in (blocks, weights)
        )
        loss = _backward(model, ids, weight, config.dtype)
        rate = optimization.step(loss)
        worker.progress.write(step + 1, total, loss=optimization.losses[-1], lr=rate)
        if optimization.is_due(config.save_every, total):
            worker.save_checkpoint(
                {"step": float(step + 1)}, lambda to: torch.save(optimization.state(), to / "state.pt")
            )
    seconds = max(1e-9, time.monotonic() - started)
    speed = (total - resumed_at) * per_step * config.block_tokens * worker.world_size / seconds
    return optimization.losses, speed, int(epochs[0][0].shape[0] * config.block_tokens)


def _backward(model: Any, ids: torch.Tensor, weight: torch.Tensor, dtype: str) -> float:
    """Accumulates the gradient of the mean loss per token, weighted, over blocks [B, n + 1]; returns the loss."""
    device = ids.device.type
    with torch.autocast(device, dtype=torch.bfloat16, enabled=resolve_precision(dtype, device) == "bfloat16"):
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits
    each = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten(), reduction="none")
    weight = weight[:, 1:].flatten()
    loss = (each * weight).sum() / weight.sum().clamp(min=1e-6)
    loss.backward()
    return float(loss.detach())


def _texts(examples: Sequence[SftExample]) -> Iterable[str]:
    for example in examples:
        yield example.system
        for message in example.messages:
            yield message.content
