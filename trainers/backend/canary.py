"""Computes an adapter's canary (``rlenv.core.canary``) from the weights in memory, when the adapter is saved."""

from __future__ import annotations

from typing import Any

from rlenv.core.canary import MESSAGES, SYSTEM, Canary
from rlenv.core.errors import PhaseError
from rlenv.prompting.chat_format import chat_format

MOST_TOKENS = 128
PLACES = 12
LIKELIEST = 20


def make_canary(model: Any, tokenizer: Any, dtype: str) -> Canary:
    """Returns the canary of a PEFT model's active adapter, at the places where the adapter changes most.

    Every rank of a sharded model must call it. The model's mode is kept.

    Args:
        model: the PEFT model, unwrapped.
        tokenizer: of the base model.
        dtype: precision of the computation.

    Raises:
        PhaseError: a log-prob is not a number.
    """
    import torch

    ids, _ = chat_format(tokenizer).training_example(SYSTEM, MESSAGES, "user")
    ids = ids[:MOST_TOKENS]
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            own = _logprobs(model, ids)
            with model.disable_adapter():
                base = _logprobs(model, ids)
    finally:
        model.train(was_training)
    if not bool(torch.isfinite(own).all()):
        raise PhaseError(
            "the trained adapter gives log-probs that are not numbers, so training has diverged; lower learning_rate"
        )
    logprobs, tokens = own.topk(min(LIKELIEST, own.shape[1]), dim=1)
    without = base.gather(1, tokens)
    change = (logprobs[:, 0] - without[:, 0]).abs()
    places = sorted(change.argsort(descending=True, stable=True)[:PLACES].tolist())
    return Canary(
        dtype=dtype,
        prompts=tuple(tuple(ids[: place + 1]) for place in places),
        tokens=tuple(tuple(tokens[place].tolist()) for place in places),
        logprobs=tuple(tuple(logprobs[place].tolist()) for place in places),
        base=tuple(tuple(without[place].tolist()) for place in places),
    )


def _logprobs(model: Any, ids: list[int]) -> Any:
    """Returns the log-probs of each next token, [n, V], in float32 on the CPU."""
    import torch

    device = next(model.parameters()).device
    logits = model(input_ids=torch.tensor([ids], device=device), use_cache=False).logits[0]
    return torch.log_softmax(logits.float(), dim=-1).cpu()
