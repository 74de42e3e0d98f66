"""From a run's settings to what each kind of process holds: the rows it may meet, and the settings that bound them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from actors.engines.config import EngineConfig
from launch.plan.assumptions import Assumptions
from launch.plan.hardware import GIB, Gpus
from launch.plan.memory import (
    BFLOAT16,
    FLOAT32,
    Beside,
    Memory,
    TrainingLoad,
    cache_tokens,
    engine_memory,
    reading_memory,
    scoring_memory,
)
from launch.plan.shapes import Model, ModelShape, find_model
from launch.run.config.run import RunConfig
from rlenv.core.types import Sampling
from trainers.backend.config import AdapterTraining

MESSAGE_OVERHEAD = 8
"""Tokens of a chat template around a message, at most."""


@dataclass(frozen=True)
class Row:
    """The longest row that a phase may meet, and the setting that bounds it."""

    tokens: int
    setting: str


@dataclass(frozen=True)
class Models:
    """The models of a run."""

    simulator: Model
    backbone: Model
    engines: dict[str, Model]

    @classmethod
    def of(cls, config: RunConfig) -> Models:
        """Returns the models that a configuration names.

        Raises:
            ConfigError: the shape of one is not known.
        """
        simulator = find_model(config.simulator.model, config.pretrain)
        engines = {
            name: simulator if engine.model == "auto" else find_model(engine.model, config.pretrain)
            for name, engine in config.engines.items()
        }
        return cls(simulator, find_model(config.backbone, config.pretrain), engines)


def bytes_of(dtype: str | None) -> int:
    """Returns the bytes of a number; "auto" is bfloat16 on a GPU."""
    return FLOAT32 if dtype == "float32" else BFLOAT16


def longest_conversation(config: RunConfig) -> int:
    """Returns the tokens of the longest conversation that can be simulated, with its context."""
    replies = [c.sampling.max_tokens for c in config.chatbots.values()] or [Sampling().max_tokens]
    each = config.simulator.sampling.max_tokens + max(replies) + 2 * MESSAGE_OVERHEAD
    conversation = config.context.budget_tokens + config.env.max_turns * each
    return min(conversation, config.engines["simulator"].max_model_len)


def sft_row(config: RunConfig, section: str, shape: ModelShape) -> Row:
    """Returns the longest row of fine-tuning: real sessions have any length."""
    limit = getattr(config, section).max_tokens or shape.max_positions
    return Row(min(limit, shape.max_positions), f"{section}.max_tokens")


def sft_load(config: RunConfig, section: str, shape: ModelShape, assumed: Assumptions) -> TrainingLoad:
    """Returns the load of the fine-tuning with the settings of ``section``."""
    settings = getattr(config, section)
    load = _adapter_load(settings, config, shape, sft_row(config, section, shape), settings.lora_rank)
    own = user_share(assumed) if section == "sft" else 1 - user_share(assumed)
    return replace(load, logit_share=own if settings.batch_size == 1 else 1.0)  # a batch keeps the union of positions


def classifier_load(config: RunConfig, shape: ModelShape) -> TrainingLoad:
    """Returns the load of a discriminator of kind ``classifier``, whose model has no output layer."""
    disc = config.discriminator
    return TrainingLoad(
        shape=replace(shape, tied=True),
        workers=config.train.num_workers,
        rows=1,
        row_tokens=discriminator_row(config).tokens,
        num_bytes=bytes_of(disc.dtype),
        lora_rank=disc.lora_rank,
        checkpointing=disc.gradient_checkpointing,
    )


def dpo_row(config: RunConfig) -> Row:
    """Returns the longest row of DPO, without the branches of a tree."""
    return Row(longest_conversation(config), "engines.simulator.max_model_len")


def replay_row(config: RunConfig, shape: ModelShape) -> Row:
    """Returns the longest real session beside the alternatives of one (``dpo.replay``)."""
    limit = config.dpo.replay_max_tokens or shape.max_positions
    return Row(min(limit, shape.max_positions), "dpo.replay_max_tokens")


def dpo_load(config: RunConfig, shape: ModelShape, assumed: Assumptions) -> TrainingLoad:
    """Returns the load of DPO: a pair, or all alternatives of a session, as branches of one row.

    With ``dpo.replay``, the real session of each row stands beside it.
    """
    settings = config.dpo
    rank = config.sft.lora_rank if config.simulator.adapter is None else config.engines["simulator"].max_lora_rank
    load = replace(_adapter_load(settings, config, shape, dpo_row(config), rank), num_adapters=2, masked=True)
    if settings.targets == "hard":
        reply = config.simulator.sampling.max_tokens
        tokens = load.row_tokens + reply  # the row ends with one of the two replies
        scored = 2 * (reply + 1)
        load = replace(load, tiled_logits=True)
    else:
        scored = alternatives_tokens(config)
        tokens = load.row_tokens + scored
        if settings.replay:
            own = user_share(assumed) if settings.batch_size == 1 else 1.0  # as in ``sft_load``
            load = replace(load, beside=Beside(settings.batch_size, replay_row(config, shape).tokens, own))
    return replace(load, row_tokens=tokens, logit_share=scored / tokens)


def _adapter_load(settings: AdapterTraining, config: RunConfig, shape: ModelShape, row: Row, rank: int) -> TrainingLoad:
    return TrainingLoad(
        shape=shape,
        workers=config.train.num_workers,
        rows=settings.batch_size,
        row_tokens=row.tokens,
        num_bytes=bytes_of(settings.dtype),
        lora_rank=rank,
        shard=settings.shard,
        checkpointing=settings.gradient_checkpointing,
        offload=settings.offload_activations,
    )


def discriminator_row(config: RunConfig) -> Row:
    """Returns the tokens of the discriminator's longest forward pass: one row, or as many as ``batch_tokens`` hold."""
    disc = config.discriminator
    batch = min(disc.batch_tokens, disc.batch_size * disc.max_tokens)
    if batch > disc.max_tokens:
        return Row(batch, "discriminator.batch_tokens")
    return Row(disc.max_tokens, "discriminator.max_tokens")


def user_share(assumed: Assumptions) -> float:
    """Returns the share of a session's tokens that the user says."""
    return assumed.user_tokens / (assumed.user_tokens + assumed.chatbot_tokens)


def alternatives_tokens(config: RunConfig) -> int:
    """Returns the tokens of all alternatives of one session, at most."""
    each = 2 if config.preferences.turns == "critical" else config.preferences.num_turns
    return each * config.preferences.num_alternatives * config.simulator.sampling.max_tokens


def scoring(config: RunConfig, models: Models, runtime: float) -> Memory:
    """Returns the memory of one replica of the served discriminator."""
    disc = config.discriminator
    num_bytes = bytes_of(config.scoring.dtype or disc.dtype)
    tokens = min(disc.max_tokens, longest_conversation(config))
    if disc.kind == "likelihood":
        row, shape = tokens + alternatives_tokens(config), models.simulator.shape
        return reading_memory(shape, row, config.scoring.batch_tokens, num_bytes, runtime, masked=True)
    branches = config.preferences.num_alternatives
    return scoring_memory(models.backbone.shape, tokens, config.scoring.batch_tokens, branches, num_bytes, runtime)


@dataclass(frozen=True)
class EngineLoad:
    """One engine on its GPUs."""

    shape: ModelShape
    engine: EngineConfig
    gpus: Gpus
    runtime: float

    def memory(self, tensor_parallel: int | None = None) -> Memory:
        """Returns its memory on each GPU; with another number of GPUs than it has, if asked."""
        engine = self.engine
        return engine_memory(
            self.shape,
            tensor_parallel=tensor_parallel or engine.tensor_parallel_size,
            max_num_seqs=engine.max_num_seqs,
            max_loras=engine.max_loras,
            max_lora_rank=engine.max_lora_rank,
            num_bytes=bytes_of(engine.dtype),
            budget=engine.gpu_memory_utilization * self.gpus.gib * GIB,
            kv_bytes=engine.kv_cache_gib and engine.kv_cache_gib * GIB,
            runtime=self.runtime,
        )

    def cache_tokens(self, tensor_parallel: int | None = None) -> int:
        """Returns the tokens that its key-value cache holds."""
        size = tensor_parallel or self.engine.tensor_parallel_size
        return cache_tokens(self.shape, self.memory(size), size, bytes_of(self.engine.dtype))

    def fits(self, tensor_parallel: int, longest: int, usable: float) -> bool:
        """Returns whether it has room for its weights and for one request of ``longest`` tokens."""
        fits = self.memory(tensor_parallel).total <= usable
        return fits and self.cache_tokens(tensor_parallel) >= longest
