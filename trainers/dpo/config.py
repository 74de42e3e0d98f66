"""The settings of DPO (Eq. 5, Table 6), and the record that comes out."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import NonNegativeFloat, PositiveFloat

from rlenv.core.settings import settings
from rlenv.core.types import Adapter
from trainers.backend.config import AdapterSchedule, AdapterTraining


@settings
class DpoConfig(AdapterTraining):
    """Direct Preference Optimization. Defaults are Table 6's."""

    beta: PositiveFloat = 1.0
    learning_rate: PositiveFloat = 1e-5
    schedule: AdapterSchedule = "constant_with_warmup"
    """Table 6 names a constant schedule and a warmup: transformers' ``constant`` would ignore the warmup."""
    warmup: NonNegativeFloat = 0.1
    chosen_nll: NonNegativeFloat = 0.0
    """Weight of the chosen reply's negative log-likelihood, a token's mean, added to Eq. 5; 0 is the paper's. DPO alone
    may win by making both replies unlikely; with few pairs and a small model that is what it does."""


@dataclass(frozen=True)
class DpoResult:
    """The new adapter and how its training went."""

    adapter: Adapter
    num_pairs: int
    loss_step0: float
    """Loss before any update: ln 2, since policy and reference are equal then (and the term of ``chosen_nll``)."""
    loss_last: float
    """Mean of the last tenth of the steps, as are margin and accuracy."""
    margin: float
    """beta x (chosen minus rejected log-ratio)."""
    accuracy: float
    """Share of pairs whose chosen reply has the larger log-ratio."""
    rate_max: float
    """Largest learning rate of any step; 0 where the warm-up swallowed them all, so that nothing was learnt."""
