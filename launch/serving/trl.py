"""The env as a TRL ``rollout_func``: an unchanged ``GRPOTrainer`` trains one seat on whole conversations.

    rollouts = TrlRollouts(core, in_process(system_text, max_tokens=60))
    trainer = GRPOTrainer(model, env_reward, train_dataset=env_prompts(core), rollout_func=rollouts, ...)

A prompt is the id of a context. The episodes of its group have the same counterpart and different seeds. The trainer
gets the tokens as sampled; ``env_mask`` is 1 on them and 0 on the counterpart's tokens. Written for TRL 1.16.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from actors.engines.sampler import Sampler
from rlenv.core.aio import run
from rlenv.core.errors import ConfigError, OverlongError
from rlenv.core.protocols import Engine
from rlenv.core.seeds import derive_seed
from rlenv.core.types import Adapter, Generation, Sampling, Seat
from rlenv.env.collect import Episode, collect, in_order
from rlenv.env.core import ConversationCore
from rlenv.learning.trajectory import Trajectory, trajectories_of
from rlenv.prompting.chat_format import chat_format
from rlenv.prompting.system_texts import SystemText
from rlenv.speakers.engine import EngineSpeaker

SpeakerOf = Callable[[Any, Seat], EngineSpeaker]
"""Returns the speaker in the trained seat, which samples with the trainer's current weights."""


@dataclass(frozen=True)
class TrlRollouts:
    """A TRL 1.16 ``rollout_func``."""

    core: ConversationCore
    """Scenarios, counterparts, limits and reward; its seat is the trained one."""
    speaker_of: SpeakerOf
    """``in_process``, or your own function for engines that follow the weights."""
    seed: int = 0
    """Everything random follows from it, the training step and the prompt."""
    concurrency: int = 64
    """Conversations in progress at the same time."""

    def __call__(self, prompts: list[str], trainer: Any) -> dict[str, list[Any]]:
        """Returns one episode per prompt: its ids, log-probs, ``env_mask`` and ``env_return``.

        A failed episode, or one in which the trained seat never spoke, has one masked token and the return None. TRL
        leaves it out of its group's baseline, so it does not count as a reward of 0.

        Raises:
            ConfigError: a prompt is not the id of a context, or the sampling temperature differs from the trainer's.
        """
        speaker = self.speaker_of(trainer, self.core.seat)
        if speaker.sampling.temperature != trainer.args.temperature:
            raise ConfigError(
                f"the speaker samples at temperature {speaker.sampling.temperature} and the trainer computes log-probs "
                f"at {trainer.args.temperature}; make them equal"
            )
        episodes = [self._episode(prompt, i, trainer) for i, prompt in enumerate(prompts)]
        results = run(in_order(collect(speaker, self.core.sibling, episodes, concurrency=self.concurrency), episodes))
        # A group has one counterpart, so no baseline mixes simulators.
        trajectories = {t.episode_id: t for t in trajectories_of(results, speaker, allow_mixed=True)}
        rows = [trajectories.get(episode.episode_id) for episode in episodes]
        pad = speaker.format.end_of_session
        return {
            "prompt_ids": [list(t.prompt_ids) if t else [pad] for t in rows],
            "completion_ids": [list(t.completion_ids) if t else [pad] for t in rows],
            "logprobs": [list(t.logprobs) if t else [0.0] for t in rows],
            "env_mask": [list(t.action_mask) if t else [0] for t in rows],
            "env_return": [_return(t) for t in rows],
        }

    def _episode(self, prompt: str, index: int, trainer: Any) -> Episode:
        step = int(trainer.state.global_step)
        counterpart = self.core.counterparts.draw(derive_seed(self.seed, "partner", step, prompt))
        rank = int(trainer.accelerator.process_index)
        seed = derive_seed(self.seed, "episode", step, prompt, rank, index)
        return Episode(episode_id=f"{rank}:{index}", context_id=prompt, counterpart=counterpart, seed=seed)


def env_prompts(core: ConversationCore, split: str | None = None) -> Any:
    """Returns the training dataset, with the id of a context as the ``prompt`` of each row.

    Args:
        core: the env.
        split: the split of the contexts; None is all.

    Raises:
        ConfigError: the split has no contexts.
    """
    from datasets import Dataset

    chosen = [s.context_id for s in core.scenarios.all if split in (None, s.split)]
    if not chosen:
        raise ConfigError(f"the env has no contexts of split {split!r}; choose another split, or None for all")
    return Dataset.from_dict({"prompt": chosen})


def env_reward(completions: Sequence[Any], env_return: Sequence[float | None], **_: Any) -> list[float | None]:
    """Returns the return of each episode, as a TRL reward function; None for an episode that is left out."""
    return list(env_return)


def in_process(system_text: SystemText, *, max_tokens: int, max_positions: int | None = None) -> SpeakerOf:
    """Returns a ``SpeakerOf`` that samples from the trainer's own model in this process, for small models.

    Args:
        system_text: builds the system message of the trained seat.
        max_tokens: longest message, in tokens.
        max_positions: longest prompt and message together, in tokens; None is the model's limit.
    """

    def speaker_of(trainer: Any, seat: Seat) -> EngineSpeaker:
        engine = ModuleEngine(trainer.accelerator.unwrap_model(trainer.model), max_positions)
        sampling = Sampling(temperature=trainer.args.temperature, top_p=1.0, max_tokens=max_tokens)
        return EngineSpeaker("policy", engine, chat_format(trainer.processing_class), seat, system_text, sampling)

    return speaker_of


def _return(trajectory: Trajectory | None) -> float | None:
    return None if trajectory is None or not trajectory.completion_ids else sum(trajectory.rewards)


class ModuleEngine(Engine):
    """An ``rlenv.core.protocols.Engine`` on a torch model in training; each request uses the current weights.

    It does not batch requests, so it is for small models only.
    """

    def __init__(self, model: Any, max_positions: int | None = None) -> None:
        self.model = model
        self.max_positions = max_positions or model.config.max_position_embeddings

    async def generate(
        self,
        token_ids: Sequence[int],
        sampling: Sampling,
        adapter: Adapter | None = None,
        conversation: str | None = None,
    ) -> Generation:
        """Returns one sampled continuation; see ``Engine``. There is no adapter: the model's weights are sampled."""
        if len(token_ids) + sampling.max_tokens > self.max_positions:
            raise OverlongError(
                f"{len(token_ids)} tokens and a reply of {sampling.max_tokens} do not fit in {self.max_positions} "
                "positions; lower max_tokens or context.budget_tokens"
            )
        await asyncio.sleep(0)  # lets the other conversations proceed
        return self._generate(list(token_ids), sampling)

    def _generate(self, ids: list[int], sampling: Sampling) -> Generation:
        import torch

        sampler, cache = Sampler(sampling), None
        tokens: list[int] = []
        logprobs: list[float] = []
        training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad():
                while len(tokens) < sampling.max_tokens and (not tokens or tokens[-1] not in sampling.stop_token_ids):
                    read = torch.tensor([[tokens[-1]] if tokens else ids], device=self.model.device)
                    out = self.model(input_ids=read, past_key_values=cache, use_cache=True, logits_to_keep=1)
                    cache = out.past_key_values
                    token, logprob = sampler(out.logits[0, -1].float().cpu())
                    tokens.append(token)
                    logprobs.append(logprob)
        finally:
            self.model.train(training)
        reason = "stop" if tokens[-1] in sampling.stop_token_ids else "length"
        return Generation.model_validate({"token_ids": tokens, "logprobs": logprobs, "finish_reason": reason})
