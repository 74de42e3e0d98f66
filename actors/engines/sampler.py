"""Samples the tokens of a reply from logits, with its own random generator. Needs only torch; independent of
batches."""

from __future__ import annotations

import torch

from rlenv.core.types import Sampling


class Sampler:
    """One request's sampler: call it with each step's logits, in order.

    >>> greedy = Sampler(Sampling(temperature=0))
    >>> greedy(torch.tensor([0.0, 2.0, 0.0]))[0]
    1
    """

    def __init__(self, sampling: Sampling) -> None:
        self._sampling = sampling
        self._random = torch.Generator()
        if sampling.seed is None:
            self._random.seed()
        else:
            self._random.manual_seed(sampling.seed)

    def __call__(self, logits: torch.Tensor) -> tuple[int, float]:
        """Returns the token and its log-prob under the distribution that it was sampled from; logits are [vocabulary].

        At temperature 0 the token is the argmax, and its log-prob is that at temperature 1.
        """
        if self._sampling.temperature == 0:
            logprobs = torch.log_softmax(logits, dim=-1)
            token = int(logits.argmax())
        else:
            logprobs = torch.log_softmax(self._kept(logits / self._sampling.temperature), dim=-1)
            noise = torch.empty_like(logprobs).exponential_(generator=self._random)
            token = int((logprobs.exp() / noise).argmax())
        return token, float(logprobs[token])

    def _kept(self, logits: torch.Tensor) -> torch.Tensor:
        """Returns the logits, with those excluded by top_k and top_p set to minus infinity."""
        top_k, top_p = self._sampling.top_k, self._sampling.top_p
        if 0 < top_k < logits.numel():
            logits = logits.masked_fill(logits < logits.topk(top_k).values[-1], float("-inf"))
        if top_p < 1:
            ordered, order = logits.sort(descending=True)
            probs = ordered.softmax(dim=-1)
            beyond = probs.cumsum(dim=-1) - probs >= top_p  # the tokens before it already have top_p
            logits = logits.index_fill(0, order[beyond], float("-inf"))
        return logits
