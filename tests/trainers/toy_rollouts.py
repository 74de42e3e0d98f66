"""Toy rollouts: conversations sampled from the adapter in the round's folder, with rewards for some tokens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from rlenv.core.adapters import adapter_at
from rlenv.learning.rows import ConversationGroup
from rlenv.learning.trajectory import Trajectory

LIKED = 60
"""Own tokens below this id are rewarded: about a fifth of the vocabulary."""
OWN, THEIRS = 4, 3
"""Tokens of an own message and of a user's."""


@dataclass(frozen=True)
class ToyRollouts:
    """Two own messages with a user's between them; a message's reward is the share of its tokens below ``LIKED``."""

    base_model: str
    num_groups: int = 4
    group_size: int = 4
    failures: int = 0
    """Conversations of the first group that fail."""
    noise: float = 0.0
    """Size of what is added to the sampler's log-probs, as another engine would."""
    adapter_folder: str | None = None
    """Samples with this one, whatever the round's is."""

    def __call__(self, number: int, adapter_folder: str) -> list[ConversationGroup]:
        folder = self.adapter_folder or adapter_folder
        model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(self.base_model), folder).eval()
        adapter = adapter_at(folder, Path(folder).name)
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(number)
            ids = torch.randint(3, 300, (self.num_groups, 5)).repeat_interleave(self.group_size, dim=0)
            logprobs = torch.zeros_like(ids, dtype=torch.float32)
            for length in (OWN, -THEIRS, OWN):
                for _ in range(abs(length)):
                    found = model(input_ids=ids).logits[:, -1].log_softmax(-1)
                    new = torch.multinomial(found.exp(), 1)
                    if length < 0:  # the user's words follow from the chatbot's last
                        new = (ids[:, -1:] * 7 + 11) % 300
                    ids = torch.cat([ids, new], dim=1)
                    own = found.gather(1, new) if length > 0 else torch.zeros(len(ids), 1)
                    logprobs = torch.cat([logprobs, own], dim=1)
        logprobs += self.noise * torch.sin(torch.arange(logprobs.numel())).view_as(logprobs) * (logprobs != 0)
        pairs = zip(ids, logprobs, strict=True)
        trajectories = [self._trajectory(i, row, of_row, adapter) for i, (row, of_row) in enumerate(pairs)]
        size = self.group_size
        groups = [trajectories[i : i + size] for i in range(0, len(trajectories), size)]
        failed = [self.failures] + [0] * self.num_groups
        return [
            ConversationGroup(group_id=f"g{i}", trajectories=tuple(group[n:]), num_failed=n)
            for i, (group, n) in enumerate(zip(groups, failed, strict=False))
        ]

    def _trajectory(self, i, ids, logprobs, adapter) -> Trajectory:
        completion, owners = ids[5:].tolist(), (1,) * OWN + (0,) * THEIRS + (2,) * OWN
        rewards = tuple(
            sum(token < LIKED for token, owner in zip(completion, owners, strict=True) if owner == turn) / OWN
            for turn in (1, 2)
        )
        return Trajectory(
            episode_id=f"e{i}",
            seat="chatbot",
            prompt_ids=tuple(ids[:5].tolist()),
            completion_ids=tuple(completion),
            action_mask=tuple(int(owner > 0) for owner in owners),
            logprobs=tuple(logprobs[5:].tolist()),
            turn_of_token=owners,
            rewards=rewards,
            reward_parts=tuple({"liked": r} for r in rewards),
            adapter=adapter,
            terminated=True,
            truncated=False,
        )
