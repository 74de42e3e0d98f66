"""The training phases of a plan: SFT, discriminators and DPO."""

from __future__ import annotations

from launch.plan import loads
from launch.plan.advice import training_advice
from launch.plan.memory import Memory, TrainingLoad, reading_memory, training_memory
from launch.plan.phases import BEYOND, Phase, Planner
from launch.plan.placement import Process
from launch.plan.shapes import ModelShape
from launch.plan.work import Work, num_simulated, reading_work, training_work
from rlenv.discriminator.reading import READ_TOKENS
from trainers.backend.config import AdapterTraining

SFT = "SFT of the base"
FURTHER = "further SFT on the adversarial users' real sessions"
DISCRIMINATORS = "discriminators"
DPO = "DPO"


def sft(planner: Planner, section: str, name: str, shape: ModelShape) -> Phase:
    """Returns the fine-tuning with the settings of ``section``; real sessions may have any length."""
    memory, work = _sft(planner, section, shape, planner.sizes.sft_sessions)
    return planner.phase(name, "1", _workers(planner, memory), [work], 1, beside_engines=False)


def further_sft(planner: Planner) -> Phase:
    """Returns the base's further fine-tuning on the real sessions whose contexts are simulated (``further_sft``)."""
    memory, work = _sft(planner, "sft", planner.models.simulator.shape, planner.sizes.contexts)
    return planner.phase(FURTHER, BEYOND, _workers(planner, memory), [work], 1)


def _sft(planner: Planner, section: str, shape: ModelShape, sessions: int) -> tuple[Memory, Work]:
    config, settings = planner.config, getattr(planner.config, section)
    row, load = loads.sft_row(config, section, shape), loads.sft_load(config, section, shape, planner.assumed)
    memory = _checked(planner, load, section, settings, row.setting)
    passes = 2 + load.checkpointing
    return memory, _trained(planner, shape, sessions * settings.epochs, planner.sizes.row, passes)


def discriminators(planner: Planner) -> Phase:
    """Returns the discriminator and its leak control; the power controls of the base count as further times."""
    config, disc = planner.config, planner.config.discriminator
    times = (2 * num_simulated(config) + 3) / 2
    notes = ["2 discriminators an iteration: main and leak control; for the base 3 power controls more"]
    if disc.learning_curve:
        notes.append(f"{len(disc.learning_curve)} more an iteration for the learning curve")
    if disc.kind == "likelihood":
        notes.append("1 more an iteration for the evaluation users, which reads nothing anew")
    memory, work = _reading(planner) if disc.kind == "likelihood" else _classifier(planner)
    return planner.phase(DISCRIMINATORS, "5", _workers(planner, memory), [work], times, notes=notes)


def _reading(planner: Planner) -> tuple[Memory, Work]:
    disc, shape = planner.config.discriminator, planner.models.simulator.shape
    tokens = min(disc.max_tokens, loads.longest_conversation(planner.config))
    memory = reading_memory(shape, tokens, READ_TOKENS, loads.bytes_of(disc.dtype), planner.runtime)
    if planner.config.train.num_gpus and memory.total > planner.usable:
        what = f"kind 'likelihood' reads {tokens:,} tokens with the whole simulator on each GPU"
        way = "set discriminator.kind to 'classifier', or use a smaller model"
        planner.too_large("discriminator", memory.total, what, way)
    rows = 2 * (disc.num_train_sessions + disc.num_validation_sessions)
    workers = planner.config.train.num_workers
    return memory, reading_work(shape, rows, planner.sizes.row, workers, planner.gpus, planner.assumed)


def _classifier(planner: Planner) -> tuple[Memory, Work]:
    config, disc, shape = planner.config, planner.config.discriminator, planner.models.backbone.shape
    row, load = loads.discriminator_row(config), loads.classifier_load(config, shape)
    memory = training_memory(load, planner.runtime)
    if config.train.num_gpus and memory.total > planner.usable:
        least = config.context.budget_tokens * disc.use_context + 1
        ways = training_advice(
            load, planner.usable, planner.runtime, "discriminator", ["checkpointing"], row.setting, least
        )
        planner.too_large("discriminator", memory.total, f"{row.tokens:,} tokens at once ({row.setting})", ways)
    passes = 2 + disc.gradient_checkpointing + (disc.lora_rank is None)
    tokens = planner.sizes.row if disc.use_context else planner.sizes.session
    trained = (2 * disc.num_train_sessions + sum(disc.learning_curve)) * disc.epochs
    work = _trained(planner, shape, trained, tokens, passes)
    validated = (2 + len(disc.learning_curve)) * disc.num_validation_sessions  # by rank 0 alone
    read = reading_work(shape, validated, tokens, 1, planner.gpus, planner.assumed)
    return memory, work + read


def dpo(planner: Planner) -> Phase:
    """Returns DPO: a pair (``hard``), or all alternatives of a session, as branches of one row."""
    config, settings, shape = planner.config, planner.config.dpo, planner.models.simulator.shape
    row, load = loads.dpo_row(config), loads.dpo_load(config, shape, planner.assumed)
    passes = 3 + settings.gradient_checkpointing  # one is the reference's
    memory = _checked(planner, load, "dpo", settings, row.setting)
    if settings.targets == "hard":
        pairs = planner.sizes.compared * planner.assumed.pairs_kept * settings.epochs
        work = _trained(planner, shape, pairs, planner.sizes.row + planner.assumed.user_tokens, passes)
    else:
        branches = planner.sizes.compared * config.preferences.num_alternatives * planner.assumed.user_tokens
        tokens = planner.sizes.row + branches / max(1, planner.sizes.adversarial)
        rows = planner.sizes.adversarial * settings.epochs
        work = _trained(planner, shape, rows, tokens, passes)
        if settings.replay:  # the reference does not read the real sessions
            work += _trained(planner, shape, rows, planner.sizes.row, passes - 1)
    return planner.phase(DPO, "9", _workers(planner, memory), [work], config.num_iterations)


def _checked(planner: Planner, load: TrainingLoad, section: str, settings: AdapterTraining, row: str) -> Memory:
    """Returns the memory of a worker, and notes a problem if it does not fit."""
    if settings.shard and load.workers == 1:
        planner.problems.append(
            f"{section}.shard: one worker has nothing to shard over; set it to false, or raise train.num_workers"
        )
    memory = training_memory(load, planner.runtime)
    if planner.config.train.num_gpus and memory.total > planner.usable:
        least = planner.config.context.budget_tokens + planner.config.simulator.sampling.max_tokens
        flags = ["checkpointing", "shard", "offload"]
        rows = f"{load.rows} row{'s' * (load.rows > 1)} of {load.row_tokens:,} tokens ({row})"
        beside = load.beside is not None and load.beside.row_tokens > load.row_tokens
        if load.beside is not None:
            row = loads.replay_row(planner.config, load.shape).setting if beside else row
            rows += f" beside real sessions of {load.beside.row_tokens:,} (dpo.replay_max_tokens)"
        ways = training_advice(load, planner.usable, planner.runtime, section, flags, row, least, beside)
        planner.too_large(section, memory.total, rows, ways)
    return memory


def _trained(planner: Planner, shape: ModelShape, rows: float, tokens: float, passes: float) -> Work:
    workers = planner.config.train.num_workers
    return training_work(shape, rows, tokens, passes, workers, planner.gpus, planner.assumed)


def _workers(planner: Planner, memory: Memory) -> list[Process]:
    train = planner.config.train
    return [Process(f"training worker {i}", train.num_gpus, memory) for i in range(train.num_workers)]
