"""Weighted ensembles of counterparts, such as simulator ensembles (Appendix B.4 of the paper).

A chatbot learns to exploit the habits of a single user simulator; a mix of versions (base, it1, it2, it3) has fewer.
Each episode draws its counterpart by its own seed, so the draw does not depend on how many episodes run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from rlenv.core.errors import ConfigError, there_are
from rlenv.core.protocols import Speaker
from rlenv.core.seeds import derive_seed


class Ensemble(Mapping[str, Speaker]):
    """Speakers by name, with each one's share of the episodes.

    Args:
        speakers: name to speaker.
        weights: name to weight, one for each speaker, in any unit; None means equal weights. A speaker of weight 0
            is never drawn, but can be requested by name.

    Raises:
        ConfigError: no speakers, or weights that are missing, unknown, negative or all 0; every problem in one report.
    """

    def __init__(self, speakers: Mapping[str, Speaker], weights: Mapping[str, float] | None = None) -> None:
        if not speakers:
            raise ConfigError("counterparts: expected at least one speaker for the other seat, got none")
        self._speakers = dict(sorted(speakers.items()))
        weights = dict.fromkeys(self._speakers, 1.0) if weights is None else weights
        problems = [f"weights: no speaker {n!r}; {there_are(speakers, n)}" for n in weights if n not in speakers]
        problems += [
            f"weights: {n!r} has none; give it 0 if it should only be available on request"
            for n in self
            if n not in weights
        ]
        for name, weight in weights.items():
            if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight < math.inf:
                problems.append(f"weights.{name}: expected a finite number of 0 or more, got {weight!r}")
        if not problems and not sum(weights.values()):
            problems.append("weights: all are 0, so no speaker could be drawn")
        if problems:
            raise ConfigError("\n".join(problems))
        total = sum(weights.values())
        self.shares: dict[str, float] = {name: weights[name] / total for name in self}
        """Name to share of the episodes; the shares sum to 1."""

    def draw(self, seed: int) -> str:
        """Returns the name of the speaker drawn for the episode with ``seed``."""
        point = derive_seed(seed, "world") / 2**31
        reached = 0.0
        for name, share in self.shares.items():
            reached += share
            if point < reached:
                return name
        return max(self.shares, key=lambda name: self.shares[name])  # the shares sum to just below 1 (rounding)

    def __getitem__(self, name: str) -> Speaker:
        return self._speakers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._speakers)

    def __len__(self) -> int:
        return len(self._speakers)
