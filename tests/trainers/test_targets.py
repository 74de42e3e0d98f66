"""Targets on a categorical policy whose optimum is known: pi_ref exp(r / beta), normalised."""

from __future__ import annotations

import math

import pytest
import torch

from trainers.dpo.targets import Targets, target_loss

REFERENCE = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
REWARDS = torch.tensor([-1.0, 0.5, 1.5, 2.0])
ONES = torch.ones(4)


def learnt(targets: Targets, beta: float = 1.0, steps: int = 3000) -> torch.Tensor:
    """Returns the policy's log-probs [4] after training on groups drawn from the reference, with repeats."""
    logits = REFERENCE.clone().requires_grad_()
    optimizer = torch.optim.Adam([logits], lr=0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        drawn = torch.multinomial(REFERENCE.exp(), 64, replacement=True, generator=generator)
        log_probs = logits.log_softmax(0)[drawn]
        loss = target_loss(targets, log_probs, REFERENCE[drawn], REWARDS[drawn], torch.ones(64), beta)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return logits.detach().log_softmax(0)


@pytest.mark.parametrize("targets", ["soft", "distill", "listwise", "imitate"])
@pytest.mark.parametrize("beta", [1.0, 2.0])
def test_soft_targets_reach_the_reference_times_the_exponential_reward(targets: Targets, beta: float):
    optimum = (REFERENCE + REWARDS / beta).softmax(0)
    assert torch.allclose(learnt(targets, beta).exp(), optimum, atol=0.03)


def test_hard_targets_run_past_the_optimum():
    optimum = (REFERENCE + REWARDS).log_softmax(0)
    policy = learnt("hard")
    assert policy[3] - policy[0] > 1.5 * (optimum[3] - optimum[0])


def test_each_loss_by_hand():
    log_probs, reference = torch.tensor([-1.0, -3.0]), torch.tensor([-2.0, -2.0])  # moved by +1 and -1
    rewards, lengths = torch.tensor([0.0, math.log(3)]), torch.tensor([2, 4])

    def loss(targets: Targets) -> float:
        return float(target_loss(targets, log_probs, reference, rewards, lengths, beta=1.0))

    assert loss("distill") == pytest.approx((2 + math.log(3)) ** 2)
    wanted = 1 / (1 + 3)  # sigma(0 - ln 3)
    predicted = 1 / (1 + math.exp(-2))
    assert loss("soft") == pytest.approx(-wanted * math.log(predicted) - (1 - wanted) * math.log(1 - predicted))
    first = math.exp(1) / (math.exp(1) + math.exp(-1))
    assert loss("listwise") == pytest.approx(-0.25 * math.log(first) - 0.75 * math.log(1 - first))
    assert loss("imitate") == pytest.approx((0.25 * 1 + 0.75 * 3) / 3)
    assert loss("hard") == pytest.approx(math.log(1 + math.exp(2)))  # the second is the best, and fell by 2
