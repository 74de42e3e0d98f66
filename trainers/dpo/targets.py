"""Losses on a critical turn's alternatives: how far their rewards ask the policy to move from the reference.

With r the log-odds that a message is real (Eq. 4), the optimum of the KL-regularised reward is pi_ref exp(r / beta),
normalised. With beta = 1, an exact discriminator, and alternatives from pi_ref, it is the distribution of people. The
targets ``soft``, ``distill`` and ``listwise`` have exactly this optimum, and ``imitate`` approaches it as alternatives
become many. ``hard`` (Eq. 5, as in the paper) has none: it pushes the best away from the worst without end. It is here
for comparison; a run trains it in ``trainers.dpo.fit``, on the kept pairs only.

With d = beta log(pi / pi_ref) of each alternative, [n], and its reward r, [n]:

* ``soft``: mean over pairs i < j of the cross-entropy of sigma(d_i - d_j) to sigma(r_i - r_j);
* ``distill``: mean over pairs i < j of ((d_i - d_j) - (r_i - r_j))^2 (Fisch et al., 2025);
* ``listwise``: cross-entropy of softmax(d) to softmax(r);
* ``imitate``: the sum of -log pi, weighted by softmax(r), over the mean length: fine-tuning on the messages that
  resampling in proportion to exp(r) would draw. Here beta divides r.
"""

from __future__ import annotations

import torch
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from trainers.dpo.config import Targets


def target_loss(
    targets: Targets,
    log_probs: torch.Tensor,
    reference: torch.Tensor,
    rewards: torch.Tensor,
    lengths: torch.Tensor,
    beta: float,
) -> torch.Tensor:
    """Returns the loss of one turn's alternatives, a scalar.

    Args:
        targets: which loss.
        log_probs: [n] of the alternatives under the policy, summed over tokens.
        reference: [n] the same under the reference.
        rewards: [n]
        lengths: [n] tokens of the alternatives.
        beta: the weight of the KL divergence to the reference.
    """
    moved = beta * (log_probs - reference)
    if targets == "hard":
        best, worst = int(rewards.argmax()), int(rewards.argmin())
        return -logsigmoid(moved[best] - moved[worst])
    if targets == "listwise":
        return -(rewards.softmax(0) * moved.log_softmax(0)).sum()
    if targets == "imitate":
        return -((rewards / beta).softmax(0) * log_probs).sum() / lengths.float().mean()
    one, other = torch.triu_indices(len(rewards), len(rewards), offset=1)
    difference, wanted = moved[one] - moved[other], rewards[one] - rewards[other]
    if targets == "soft":
        return binary_cross_entropy_with_logits(difference, wanted.sigmoid())
    return ((difference - wanted) ** 2).mean()
