"""The tokens and the seconds of a phase: operations over the speed that the GPUs are assumed to reach.

A token costs two operations per weight in a forward pass. With frozen weights a backward pass costs the same again, and
recomputing checkpointed activations once more; where all weights are trained, their gradients are a third pass.
"""

from __future__ import annotations

from dataclasses import dataclass

from actors.engines.config import EngineConfig
from launch.plan.assumptions import Assumptions
from launch.plan.hardware import Gpus
from launch.plan.shapes import ModelShape
from launch.run.config.run import RunConfig
from launch.run.contents import version_names

PAPER_SESSIONS = 160_000
"""Sessions of the paper's largest SFT (4.1)."""


@dataclass(frozen=True)
class Sizes:
    """How much there is of everything in one iteration."""

    context: int
    """Tokens of a context on average."""
    turns: int
    """User messages of a session on average."""
    session: int
    """Tokens of a session without its context on average."""
    sft_sessions: int
    contexts: int
    """Adversarial users' contexts, each that of a real session."""
    conversations: int
    adversarial: int
    """Conversations of which preferences are made."""
    compared: int
    """Turns at which alternatives are compared."""

    @property
    def row(self) -> int:
        """Tokens of a session with its context."""
        return self.context + self.session


def sizes(config: RunConfig, assumed: Assumptions) -> Sizes:
    """Returns the sizes of a run."""
    budget, turns = config.context.budget_tokens, min(assumed.turns, config.env.max_turns)
    context = budget if assumed.context_tokens is None else min(budget, assumed.context_tokens)
    disc, collect, preferences = config.discriminator, config.collect, config.preferences
    share = disc.num_train_sessions / (disc.num_train_sessions + disc.num_validation_sessions)
    contexts = round(collect.num_contexts * share)
    adversarial = contexts * collect.simulations_per_context
    data = config.data
    own = round(data.population.num_users * data.population.sessions_per_user * data.sft_share)
    sessions = assumed.sft_sessions or (PAPER_SESSIONS if data.path else own)
    each = 2 if preferences.turns == "critical" else preferences.num_turns
    return Sizes(
        context=context,
        turns=turns,
        session=turns * (assumed.user_tokens + assumed.chatbot_tokens),
        sft_sessions=min(sessions, config.data.max_sft_sessions or sessions),
        contexts=contexts,
        conversations=collect.num_contexts * collect.simulations_per_context,
        adversarial=adversarial,
        compared=adversarial * min(each, turns),
    )


def num_simulated(config: RunConfig) -> int:
    """Returns how many simulators hold conversations that a discriminator judges: the versions, and a row beside."""
    return len(version_names(config)) + (config.further_sft == "row")


@dataclass(frozen=True)
class Work:
    """Tokens that a phase processes, and its seconds without the start."""

    tokens: float
    seconds: float

    def __add__(self, other: Work) -> Work:
        return Work(self.tokens + other.tokens, self.seconds + other.seconds)


def training_work(
    shape: ModelShape, rows: float, row_tokens: float, passes: float, workers: int, gpus: Gpus, assumed: Assumptions
) -> Work:
    """Returns the work of ``passes`` passes over ``rows`` rows, spread over ``workers`` GPUs."""
    tokens = rows * row_tokens
    _, peak, _ = gpus.card
    flops = passes * shape.forward_flops(tokens, row_tokens)
    return Work(tokens, flops / (workers * peak * assumed.training_efficiency))


def reading_work(
    shape: ModelShape, rows: float, row_tokens: float, workers: int, gpus: Gpus, assumed: Assumptions
) -> Work:
    """Returns the work of one forward pass over ``rows`` rows."""
    tokens = rows * row_tokens
    _, peak, _ = gpus.card
    return Work(tokens, shape.forward_flops(tokens, row_tokens) / (workers * peak * assumed.prefill_efficiency))


def sampling_work(
    shape: ModelShape,
    engine: EngineConfig,
    cache_tokens: int,
    *,
    prompts: float,
    prompt_tokens: float,
    replies: float,
    reply_tokens: float,
    concurrency: int,
    num_bytes: int,
    gpus: Gpus,
    assumed: Assumptions,
) -> Work:
    """Returns the work of an engine pool, whose prefix cache holds the conversations in progress.

    Args:
        shape: the model.
        engine: the pool.
        cache_tokens: tokens that one engine's key-value cache holds.
        prompts: number of conversations; each prompt is processed once.
        prompt_tokens: tokens of a conversation with its context.
        replies: number of replies sampled.
        reply_tokens: tokens of each.
        concurrency: conversations in progress at the same time.
        num_bytes: of a weight.
        gpus: the hardware.
        assumed: the efficiencies.
    """
    _, peak, bandwidth = gpus.card
    size, replicas = engine.tensor_parallel_size, engine.replicas
    share = 1.0 if engine.num_gpus == 0 else min(1.0, engine.num_gpus)
    speed = size * share
    prefill = shape.forward_flops(prompts / replicas * prompt_tokens, prompt_tokens)
    sampled = replies * reply_tokens
    batch = max(1.0, min(engine.max_num_seqs, cache_tokens / prompt_tokens, concurrency / replicas, prompts / replicas))
    step = shape.num_parameters * num_bytes + batch * prompt_tokens * shape.kv_bytes_per_token(num_bytes)
    steps = sampled / replicas / batch
    seconds = prefill / (speed * peak * assumed.prefill_efficiency)
    seconds += steps * step / (speed * bandwidth * assumed.decode_efficiency)
    return Work(prompts * prompt_tokens + sampled, seconds)
