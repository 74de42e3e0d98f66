"""The settings of DPO (Eq. 5, Table 6), and the record of its result."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt

from rlenv.core.settings import settings
from rlenv.core.types import Adapter
from trainers.backend.config import AdapterSchedule, AdapterTraining

Targets = Literal["hard", "soft", "distill", "listwise", "imitate"]
"""Losses on a critical turn's alternatives; see ``trainers.dpo.targets``."""


@settings
class DpoConfig(AdapterTraining):
    """Direct Preference Optimization. Defaults are Table 6's."""

    targets: Targets = "hard"
    """What is learnt at a critical turn. ``hard``, as in the paper: the kept pair of best and worst (Eq. 5). The others
    use all alternatives and their rewards, see ``trainers.dpo.targets``; ``batch_size`` then counts sessions."""
    held_out: float = Field(default=0.0, ge=0, lt=1)
    """Share of the sessions that are not trained on, on which margins are compared with rewards after training. Not for
    ``hard``."""
    beta: PositiveFloat = 1.0
    learning_rate: PositiveFloat = 1e-5
    schedule: AdapterSchedule = "constant_with_warmup"
    """Table 6 gives a constant schedule with a warm-up; transformers' ``constant`` would ignore the warm-up."""
    warmup: NonNegativeFloat = 0.1
    chosen_nll: NonNegativeFloat = 0.0
    """Weight of the chosen reply's negative log-likelihood (mean per token), added to Eq. 5; 0 in the paper. DPO alone
    can lower its loss by making both replies unlikely, and does so with few pairs and a small model."""
    replay: NonNegativeFloat = 0.0
    """Weight of the negative log-likelihood (mean per token) of real messages, added to the loss; 0 in the paper. They
    are those of the real session that gave a session's context. Not for ``hard``."""
    replay_max_tokens: PositiveInt | None = None
    """A longer real session is cut after a whole message; None cuts none."""
    blocks_from: PositiveInt | None = None
    """Length in tokens from which a session's row attends by block masks (FlexAttention) and not by a dense mask, which
    grows with its square; None never does. For a GPU. Off, because where it is faster has not been measured."""

    def problems(self) -> list[str]:
        """Returns the violated rules across fields, one line each."""
        if self.targets != "hard" and self.chosen_nll:
            return [f"chosen_nll: only targets 'hard' has it, not {self.targets!r}; set dpo.chosen_nll to 0"]
        if self.targets == "hard" and self.held_out:
            return ["held_out: targets 'hard' trains on all pairs; set dpo.held_out to 0"]
        if self.targets == "hard" and self.replay:
            return ["replay: targets 'hard' trains on pairs only; set dpo.replay to 0"]
        return []


@dataclass(frozen=True)
class DpoResult:
    """The new adapter and how its training went."""

    adapter: Adapter
    num_pairs: int
    """Pairs, or with other targets than ``hard`` the turns whose alternatives were trained on."""
    loss_step0: float
    """Loss before any update; with ``hard`` ln 2, because policy and reference are equal, plus the term of
    ``chosen_nll``."""
    loss_last: float
    """Mean over the last tenth of the steps, as are margin and accuracy."""
    margin: float
    """beta x (log-ratio of the chosen minus that of the rejected: the alternatives with the extreme rewards)."""
    accuracy: float
    """Share of pairs whose chosen reply has the larger log-ratio."""
    rate_max: float
    """Largest learning rate of any step; 0 if the warm-up covered all steps, so that nothing was learnt."""
    target: float | None = None
    """Mean of what the margin is to be: the difference of the two rewards. None with ``hard``, which has no such
    optimum."""
    replay_nll: float | None = None
    """Mean negative log-likelihood per token of the real messages beside the alternatives; None without ``replay``."""
    held_out_margin: float | None = None
    """The margin at the turns of sessions that were not trained on; None if there are none."""
    held_out_target: float | None = None
    """The difference of the two rewards there."""
    held_out_gain: float | None = None
    """How far the loss there fell below that of the reference. Below 0, the update moves the policy more than what it
    has learnt justifies: it is noise to other sessions, however large the margin. Then lower the learning rate."""
    held_out_most: float | None = None
    """The gain there of a policy that meets the rewards exactly. None with ``imitate``."""
