"""The settings of DPO (Eq. 5, Table 6), and the record of its result."""

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
    """Table 6 gives a constant schedule with a warm-up; transformers' ``constant`` would ignore the warm-up."""
    warmup: NonNegativeFloat = 0.1
    chosen_nll: NonNegativeFloat = 0.0
    """Weight of the chosen reply's negative log-likelihood (mean per token), added to Eq. 5; 0 in the paper. DPO alone
    can lower its loss by making both replies unlikely, and does so with few pairs and a small model."""


@dataclass(frozen=True)
class DpoResult:
    """The new adapter and how its training went."""

    adapter: Adapter
    num_pairs: int
    loss_step0: float
    """Loss before any update: ln 2, because policy and reference are equal, plus the term of ``chosen_nll``."""
    loss_last: float
    """Mean over the last tenth of the steps, as are margin and accuracy."""
    margin: float
    """beta x (chosen minus rejected log-ratio)."""
    accuracy: float
    """Share of pairs whose chosen reply has the larger log-ratio."""
    rate_max: float
    """Largest learning rate of any step; 0 if the warm-up covered all steps, so that nothing was learnt."""
