"""The canary of an adapter: what its trainer computed at a few fixed places, and the comparison with an engine's words.

A version that was never delivered to its engine goes unnoticed, because the base model answers in its place. So the
trainer writes ``canary.json`` into the adapter's folder: for some prefixes of a fixed conversation, the log-probs of
the likeliest next tokens, with the adapter and without it. An engine then gives its likeliest token for each prefix
with its log-prob (temperature 0), on the path that every request takes. The two must agree. Independent of models and
engines.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rlenv.core.files import read_json, write_json
from rlenv.core.types import Message, Record

CANARY = "canary.json"
SYSTEM = "You talk with somebody who moved to another town last month."
MESSAGES = (
    Message(role="assistant", content="Hello. How have the first weeks in the new town been for you?"),
    Message(role="user", content="Mostly fine. The flat is small, but I can walk to work and there is a market."),
    Message(role="assistant", content="What do you miss most?"),
    Message(role="user", content="My friends, I think. In the evenings it is very quiet here."),
)
"""The fixed conversation. It is in no data set, so errors and files may hold its numbers."""
TOLERANCES = {"float32": 0.005, "bfloat16": 0.15, "float16": 0.05}
"""The mean difference of log-probs up to which two programs agree, by the coarser of their precisions.

A number in bfloat16 has 8 significant bits. So logits of 10 to 30 are rounded in steps of 1/16 to 1/8, and two programs
that round in other places differ by up to a step in each logit, and on average over the places by less. Measured on the
CPU: 0.03 to 0.04 with the population's Llama, on vLLM and on transformers, and 0.06 with SmolLM2-135M on transformers.
float16 has 8 times finer steps. In float32 only the order of summation differs: below 1e-5 with both models."""


class Canary(Record):
    """What one version says at P places, as its trainer computed it."""

    dtype: str
    """Precision of the trainer's computation."""
    prompts: tuple[tuple[int, ...], ...]
    """[P] the tokens before each place."""
    tokens: tuple[tuple[int, ...], ...]
    """[P, K] the likeliest next tokens with the adapter, the likeliest first."""
    logprobs: tuple[tuple[float, ...], ...]
    """[P, K] their log-probs with the adapter."""
    base: tuple[tuple[float, ...], ...]
    """[P, K] their log-probs without it."""

    @property
    def effect(self) -> float:
        """Mean over places of |log-prob with the adapter - without it| of the likeliest token."""
        pairs = zip(self.logprobs, self.base, strict=True)
        return sum(abs(own[0] - base[0]) for own, base in pairs) / len(self.prompts)


@dataclass(frozen=True)
class Comparison:
    """An engine's log-probs against the trainer's."""

    gap_mean: float
    """Mean over places of |engine - trainer|."""
    gap_max: float
    effect: float
    """``Canary.effect``: what ``gap_mean`` would be about if the base model had answered."""
    tolerance: float

    @property
    def agrees(self) -> bool:
        """Whether the engine serves what the trainer trained."""
        return self.gap_mean <= self.tolerance

    @property
    def tells(self) -> bool:
        """Whether the base model's words would have been noticed."""
        return self.effect > 2 * self.tolerance


def compare(
    canary: Canary, tokens: Sequence[int], logprobs: Sequence[float], dtype: str, tolerance: float | None = None
) -> Comparison:
    """Returns how an engine's likeliest tokens compare with the trainer's figures.

    Args:
        canary: the trainer's.
        tokens: the engine's token at each of the first places, at least one.
        logprobs: their log-probs.
        dtype: the engine's precision.
        tolerance: the mean difference that counts as agreement; None takes it from ``TOLERANCES``.

    >>> canary = Canary(dtype="float32", prompts=((1,),), tokens=((7, 8),), logprobs=((-1.0, -2.0),), base=((-3, -2),))
    >>> compare(canary, [8], [-2.25], "float32").gap_mean, compare(canary, [9], [-0.5], "float32").gap_mean
    (0.25, 1.5)
    """
    gaps = []
    for place, (token, logprob) in enumerate(zip(tokens, logprobs, strict=True)):
        known = dict(zip(canary.tokens[place], canary.logprobs[place], strict=True))
        least = min(known.values())  # a token that is not among the likeliest has at most this
        gaps.append(abs(logprob - known[token]) if token in known else max(0.0, logprob - least))
    if tolerance is None:
        tolerance = max(TOLERANCES.get(name, TOLERANCES["bfloat16"]) for name in (canary.dtype, dtype))
    return Comparison(sum(gaps) / len(gaps), max(gaps), canary.effect, tolerance)


def write_canary(canary: Canary, folder: str | Path) -> None:
    """Writes ``canary.json`` into an adapter's folder."""
    write_json(Path(folder) / CANARY, canary.model_dump(mode="json"))


def read_canary(folder: str | Path) -> Canary | None:
    """Returns an adapter's canary; None where its trainer wrote none."""
    path = Path(folder) / CANARY
    return Canary.model_validate(read_json(path)) if path.is_file() else None
