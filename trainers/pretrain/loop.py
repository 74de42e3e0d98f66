"""The loop behind ``fit_base_model``: tokenizer, packing, and whole-model training of a small Llama.

Runs on Ray Train's workers.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rlenv.core.errors import PhaseError
from rlenv.core.seeds import derive_seed
from rlenv.models.hardware import resolve_precision
from rlenv.prompting.chat_format import ChatFormat, chat_format
from trainers.backend.optimization import muon_optimizers, rate_factor
from trainers.backend.ray_train import Worker, seed_everything, temporary_folder

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


def pack(examples: Sequence[SftExample], chat: ChatFormat, block: int, seed: int) -> np.ndarray:
    """Returns all conversations as one shuffled stream cut into [blocks, block + 1] ids; end-of-session ends each."""
    order = np.random.default_rng(seed).permutation(len(examples))
    stream: list[int] = []
    for i in order:
        example = examples[int(i)]
        ids, _ = chat.training_example(example.system, example.messages, example.seat)
        stream.extend(ids)
        if chat.end_of_session not in ids[-1 - len(chat.own.after) :]:
            stream.append(chat.end_of_session)
    blocks = (len(stream) - 1) // block
    if blocks == 0:
        stream.extend([chat.end_of_session] * (block + 1 - len(stream)))
        blocks = 1
    return np.lib.stride_tricks.sliding_window_view(np.asarray(stream, np.int64), block + 1)[::block][:blocks]


def train_base_model(payload: tuple[Any, PretrainConfig, str], worker: Worker) -> dict[str, Any]:
    """Returns the summary of a run; the checkpoint is written on rank 0."""
    examples, config, out_dir = payload
    seed_everything(config.seed)
    tokenizer = train_tokenizer(_texts(examples), config.vocab_size, config.max_positions)
    chat = chat_format(tokenizer, "<|endoftext|>")
    model = new_llama(config, chat).to(worker.device)
    losses, speed, num_tokens = _train(model, examples, chat, config, worker)
    tail = losses[-max(1, len(losses) // 10) :]
    if worker.rank == 0:
        model.save_pretrained(out_dir)
        tokenizer.save_pretrained(out_dir)
    return {
        "num_parameters": sum(p.numel() for p in model.parameters()),
        "num_tokens": num_tokens,
        "loss_last": sum(tail) / len(tail),
        "tokens_per_second": speed,
    }


def _train(
    model: Any, examples: Sequence[SftExample], chat: ChatFormat, config: PretrainConfig, worker: Worker
) -> tuple[list[float], float, int]:
    per_step = max(1, config.batch_tokens // config.block_tokens)
    epochs = [
        pack(examples, chat, config.block_tokens, derive_seed(config.seed, "pack", e))
        for e in range(int(-(-config.epochs // 1)))
    ]
    blocks = np.concatenate(epochs)[: max(1, round(config.epochs * len(epochs[0])))]
    total = max(1, len(blocks) // (per_step * worker.world_size))
    if len(blocks) < per_step * worker.world_size and worker.world_size > 1:
        raise PhaseError(f"pretrain: {len(blocks)} blocks of {config.block_tokens} tokens do not fill one step")
    optimizers = muon_optimizers(model.named_parameters(), config.learning_rate, config.weight_decay)
    wrapped = torch.nn.parallel.DistributedDataParallel(model) if worker.world_size > 1 else model
    losses: list[float] = []
    with worker.resume() as folder:
        if folder:
            state = torch.load(folder / "state.pt", map_location=worker.device, weights_only=True)
            model.load_state_dict(state["model"])
            for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            losses = state["losses"]
    model.train()
    began, resumed_at = time.monotonic(), len(losses)
    for step in range(len(losses), total):
        rate = config.learning_rate * rate_factor(step, total, config.schedule, config.warmup)
        for group in (g for optimizer in optimizers for g in optimizer.param_groups):
            group["lr"] = rate
        start = (step * worker.world_size + worker.rank) * per_step
        ids = torch.from_numpy(blocks[start : start + per_step].copy()).to(worker.device)
        losses.append(_step(wrapped, model, ids, optimizers, config))
        worker.progress.write(step + 1, total, loss=losses[-1], lr=rate)
        if config.save_every and (step + 1) % config.save_every == 0 and step + 1 < total:
            states = [optimizer.state_dict() for optimizer in optimizers]
            _save_state(worker, {"model": model.state_dict(), "optimizers": states, "losses": losses})
    seconds = max(1e-9, time.monotonic() - began)
    speed = (total - resumed_at) * per_step * config.block_tokens * worker.world_size / seconds
    return losses, speed, int(epochs[0].shape[0] * config.block_tokens)


def _step(wrapped: Any, model: Any, ids: torch.Tensor, optimizers: Sequence[Any], config: PretrainConfig) -> float:
    with torch.autocast(
        ids.device.type, dtype=torch.bfloat16, enabled=resolve_precision(config.dtype, ids.device.type) == "bfloat16"
    ):
        logits = wrapped(input_ids=ids[:, :-1], use_cache=False).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return float(loss.detach())


def _save_state(worker: Worker, state: dict[str, Any]) -> None:
    folder = temporary_folder(worker) if worker.rank == 0 else None
    if folder:
        torch.save(state, Path(folder) / "state.pt")
    worker.report({"step": float(len(state["losses"]))}, folder)
    if folder:
        shutil.rmtree(folder, ignore_errors=True)


def _texts(examples: Sequence[SftExample]) -> Iterable[str]:
    for example in examples:
        yield example.system
        for message in example.messages:
            yield message.content
