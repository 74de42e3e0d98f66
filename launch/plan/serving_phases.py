"""The phases of a plan in which engines sample: conversations, and the alternatives of preferences."""

from __future__ import annotations

from launch.plan import loads
from launch.plan.advice import engine_advice
from launch.plan.hardware import GIB
from launch.plan.phases import Phase, Planner
from launch.plan.placement import Process
from launch.plan.work import Work, num_simulated, reading_work, sampling_work


def conversations(planner: Planner) -> Phase:
    """Returns the conversations of the simulator with the chatbots; the slower seat sets the time."""
    size, assumed, names = planner.sizes, planner.assumed, planner.hosted
    seconds, tokens, notes = 0.0, 0.0, []
    for name in names:
        if planner.config.engines[name].on_cpu:
            notes.append(f"{name}: on the CPU, not in the plan")
            continue
        _check_engine(planner, name)
        reply = assumed.user_tokens if name == "simulator" else assumed.chatbot_tokens
        work = _sampled(planner, name, size.conversations, size.conversations * size.turns, reply)
        seconds, tokens = max(seconds, work.seconds), tokens + work.tokens
        held = planner.engine(name).cache_tokens()
        notes.append(
            f"{name}: the key-value cache of an engine holds {held:,} tokens, {held // size.row:,} conversations of "
            f"{size.row:,}"
        )
    processes, times = list(planner.engines(names)), num_simulated(planner.config)
    return planner.phase(
        "conversations", "4", processes, [Work(tokens, seconds)], times, beside_engines=False, notes=notes
    )


def preferences(planner: Planner) -> Phase:
    """Returns the scoring of the conversations, and the alternatives that are sampled and scored."""
    size, config = planner.sizes, planner.config
    likelihood = config.discriminator.kind == "likelihood"
    memory = loads.scoring(config, planner.models, planner.runtime)
    if config.scoring.num_gpus and memory.total > planner.usable:
        way = "lower discriminator.max_tokens or scoring.batch_tokens"
        if likelihood:
            way = "set discriminator.kind to 'classifier', or use a smaller model"
        planner.too_large("scoring", memory.total, "one session with its alternatives", way)
    alternatives = size.compared * config.preferences.num_alternatives
    sampled = _sampled(planner, "simulator", size.adversarial, alternatives, planner.assumed.user_tokens)
    shape = (planner.models.simulator if likelihood else planner.models.backbone).shape
    row = size.row + alternatives * planner.assumed.user_tokens / max(1, size.adversarial)
    replicas = config.scoring.replicas
    scored = reading_work(shape, size.adversarial, row, replicas, planner.gpus, planner.assumed)
    served = [Process(f"discriminator {i}", config.scoring.num_gpus, memory) for i in range(replicas)]
    processes = [*planner.engines(["simulator"]), *served]
    return planner.phase("preferences", "6 to 8", processes, [sampled, scored], config.num_iterations)


def _check_engine(planner: Planner, name: str) -> None:
    """Notes an engine that cannot be divided so, or has no room for one request."""
    load, engine, where = planner.engine(name), planner.config.engines[name], f"engines.{name}"
    heads, size, most = load.shape.num_heads, engine.tensor_parallel_size, planner.gpus.per_node
    if heads % size:
        planner.problems.append(f"{where}.tensor_parallel_size: {size} does not divide the model's {heads} heads")
    if size > most:
        planner.problems.append(f"{where}.tensor_parallel_size: {size} GPUs of one node are needed, a node has {most}")
    if load.fits(size, engine.max_model_len, planner.usable):
        return

    def fits(gpus: int, length: int) -> bool:
        return load.fits(gpus, length, planner.usable)

    memory = load.memory()
    planner.problems.append(
        f"{where}: {(memory.total - memory.kv_cache) / GIB:.1f} GiB a GPU of {planner.gpus.gib:g} are used besides the "
        f"key-value cache, which holds {load.cache_tokens():,} tokens of the {engine.max_model_len:,} that one request "
        f"may have; {engine_advice(fits, size, heads, most, engine.max_model_len, where)}"
    )


def _sampled(planner: Planner, name: str, prompts: float, replies: float, reply_tokens: float) -> Work:
    load = planner.engine(name)
    return sampling_work(
        load.shape,
        load.engine,
        load.cache_tokens(),
        prompts=prompts,
        prompt_tokens=planner.sizes.row,
        replies=replies,
        reply_tokens=reply_tokens,
        concurrency=planner.config.collect.concurrency,
        num_bytes=loads.bytes_of(load.engine.dtype),
        gpus=planner.gpus,
        assumed=planner.assumed,
    )
