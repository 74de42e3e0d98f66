"""The jobs that are measured, with the memory that the plan's arithmetic predicts for the rows that they are given.

One worker runs two steps, since the first makes the optimiser's state. Sharding and the gradients that workers exchange
are therefore left out, of the prediction too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from actors.engines.actor import actor_environment
from actors.engines.config import EngineConfig
from actors.process import thread_environment
from launch.measure import rows
from launch.measure.child import Job
from launch.measure.engine import REPLY, serve_one
from launch.plan import loads
from launch.plan.assumptions import Assumptions
from launch.plan.hardware import GIB
from launch.plan.memory import (
    BFLOAT16,
    FLOAT32,
    Memory,
    TrainingLoad,
    engine_memory,
    reading_memory,
    request_memory,
    training_memory,
)
from launch.plan.shapes import Model, find_model
from launch.run.config.run import RunConfig
from rlenv.core.errors import ConfigError
from rlenv.discriminator.reading import READ_TOKENS, read_row
from rlenv.discriminator.rows import discriminator_row
from rlenv.models.hardware import resolve_precision
from rlenv.prompting.chat_format import ChatFormat
from trainers.discriminator.likelihood import train_likelihood
from trainers.discriminator.loop import Task, train_discriminators
from trainers.dpo.alternatives import train_on_alternatives
from trainers.dpo.fit import KEYS, train_dpo
from trainers.sft.fit import train_sft

STEPS = 2
READ_SESSIONS = 10
"""Sessions that a ``likelihood`` discriminator reads; its regressions are then too small to matter."""
MIB = 2**20
CPU_RUNTIME = {"trainer": 49 * MIB, "classifier": 41 * MIB, "reading": 22 * MIB, "engine": 22 * MIB, "vllm": 950 * MIB}
"""Of a process on a CPU besides the model: code of the libraries that is read when it is first used, the tokenizer, the
objects of the loop. Measured with a model of 0.03M parameters, where nothing else takes memory. ``trainer`` is
transformers' (SFT, DPO), ``reading`` a discriminator of kind ``likelihood``, ``engine`` one on plain transformers.
``vllm`` is an engine's own process, whole, with its imports; measured with population-llama (2.6M)."""


@dataclass(frozen=True)
class Step:
    """One job, and what is predicted for it."""

    phase: str
    what: str
    """The rows, in words."""
    predicted: Memory
    job: Job


@dataclass(frozen=True)
class Here:
    """Where the steps run, and with which models."""

    config: RunConfig
    assumed: Assumptions
    device: str
    simulator: tuple[str, ChatFormat]
    """The folder of the simulator's model, and its chat template."""
    backbone: tuple[str, ChatFormat]
    tokens: int | None
    """The longest row to use; None is the longest that the settings allow."""

    @property
    def on_cpu(self) -> bool:
        """Whether the steps run on the CPU."""
        return self.device == "cpu"

    def runtime(self, kind: str) -> float:
        """Returns the bytes of a process besides the model; on a GPU, PyTorch's count is without them."""
        return CPU_RUNTIME[kind] if self.on_cpu else 0.0

    def model(self, name: str) -> Model:
        """Returns the shape of a model of the run."""
        return find_model(name, self.config.pretrain)

    def at_most(self, tokens: int) -> int:
        """Returns the tokens of a row whose longest is ``tokens``."""
        return min(tokens, self.tokens or tokens)

    def num_bytes(self, dtype: str) -> int:
        """Returns the bytes of a number in the computation."""
        return FLOAT32 if resolve_precision(dtype, self.device) == "float32" else BFLOAT16

    def trained(self, load: TrainingLoad, kind: str = "trainer", **changes: Any) -> Memory:
        """Returns the memory of one worker that is not sharded."""
        one = replace(load, workers=1, shard=False, on_cpu=self.on_cpu, **changes)
        return training_memory(one, self.runtime(kind))

    def job(self, loop: Any, payload: tuple[Any, ...], model: str) -> Job:
        """Returns a training's job."""
        threads = self.config.train.num_threads()
        return Job(loop, payload, model, self.device, threads, environment=thread_environment(threads))


def sft(here: Here, section: str, phase: str, model: tuple[str, ChatFormat], name: str, out: Path) -> Step:
    """Returns the fine-tuning with the settings of ``section``; its adapter is written to ``out``."""
    settings, shape = getattr(here.config, section), here.model(name).shape
    _whole(settings.shard, section)
    load = loads.sft_load(here.config, section, shape, here.assumed)
    folder, chat = model
    examples = rows.sft_examples(
        chat, here.at_most(load.row_tokens), STEPS * load.rows, "user" if section == "sft" else "chatbot",
        load.logit_share,
    )  # fmt: skip
    ids, mask = chat.training_example("", examples[0].messages, examples[0].seat)
    predicted = here.trained(
        load, row_tokens=len(ids), logit_share=sum(mask[1:]) / len(ids), num_bytes=here.num_bytes(settings.dtype)
    )
    once = replace(settings, epochs=1, gradient_accumulation=1, save_every=0)
    job = here.job(train_sft, (tuple(examples), once, folder, str(out)), folder)
    return Step(phase, _rows(load.rows, len(ids)), predicted, job)


def discriminator(here: Here, phase: str, adapter: str, out: Path) -> Step:
    """Returns the training of a discriminator of either kind."""
    return (_likelihood if here.config.discriminator.kind == "likelihood" else _classifier)(here, phase, adapter, out)


def _likelihood(here: Here, phase: str, adapter: str, out: Path) -> Step:
    config, disc, (folder, chat) = here.config, here.config.discriminator, here.simulator
    tokens = here.at_most(min(disc.max_tokens, loads.longest_conversation(config)))
    sessions = rows.labelled_sessions(chat, tokens, READ_SESSIONS + 4)
    row = len(read_row(chat, sessions[0].session.messages, "", disc.max_tokens).ids)
    items = [(session, None) for session in sessions]
    task = Task("measured", items[:READ_SESSIONS], items[READ_SESSIONS:], blank_user=False)
    batch, num_bytes = (0, FLOAT32) if here.on_cpu else (READ_TOKENS, here.num_bytes(disc.dtype))
    predicted = reading_memory(here.model(config.simulator.model).shape, row, batch, num_bytes, here.runtime("reading"))
    job = here.job(train_likelihood, ([task], disc, folder, adapter, [str(out)]), folder)
    return Step(phase, _rows(1, row), predicted, job)


def _classifier(here: Here, phase: str, adapter: str, out: Path) -> Step:
    disc, (folder, chat) = here.config.discriminator, here.backbone
    load = loads.classifier_load(here.config, here.model(here.config.backbone).shape)
    size = max(2, disc.batch_size)
    train = rows.labelled_sessions(chat, here.at_most(disc.max_tokens), STEPS * size)
    validation = rows.labelled_sessions(chat, here.at_most(disc.max_tokens), 2, first=len(train))
    row = len(discriminator_row(chat, disc.layout(), train[0].session.messages).token_ids)
    task = Task("measured", [(i, None) for i in train], [(i, None) for i in validation], blank_user=False)
    at_once = max(1, min(disc.batch_size, disc.batch_tokens // row))
    predicted = here.trained(load, "classifier", rows=at_once, row_tokens=row, num_bytes=here.num_bytes(disc.dtype))
    once = replace(disc, epochs=1, save_every=0)
    job = here.job(train_discriminators, ([task], once, folder, [str(out)]), folder)
    return Step(phase, _rows(at_once, row), predicted, job)


def dpo(here: Here, phase: str, adapter: str, out: Path) -> Step:
    """Returns one update of DPO, from the adapter in the folder ``adapter``."""
    config, settings, (folder, chat) = here.config, here.config.dpo, here.simulator
    _whole(settings.shard, "dpo")
    shape = here.model(config.simulator.model).shape
    load = loads.dpo_load(config, shape, here.assumed)
    tokens = here.at_most(loads.dpo_row(config).tokens)
    reply, num_bytes = config.simulator.sampling.max_tokens, here.num_bytes(settings.dtype)
    once = replace(settings, epochs=1, gradient_accumulation=1, save_every=0, held_out=0.0)
    rest = (once, folder, adapter, str(out))
    if settings.targets == "hard":
        pairs = rows.pairs(tokens, reply, STEPS * settings.batch_size)
        data = {key: [list(getattr(pair, key)) for pair in pairs] for key in KEYS}
        length = len(pairs[0].chosen_ids)
        row = len(pairs[0].prompt_ids) + 2 * (length - 1)
        share = 2 * (length + 1) / row
        predicted = here.trained(load, row_tokens=row, logit_share=share, num_bytes=num_bytes)
        what = f"{_rows(load.rows, row)}, both replies of a pair in each"
        return Step(phase, what, predicted, here.job(train_dpo, (data, *rest), folder))
    turns = 2 if config.preferences.turns == "critical" else config.preferences.num_turns
    each = config.preferences.num_alternatives
    made = rows.alternatives(tokens, reply, turns, each, STEPS * settings.batch_size)
    trunk, length = len(made[0].prompt_ids), len(made[0].replies_ids[0])
    row = trunk + turns * each * (length - 1)
    share = turns * each * length / row
    what, real = f"{_rows(load.rows, row)}, {turns * each} alternatives among them", None
    if load.beside is not None:
        at_most = here.at_most(loads.replay_row(config, shape).tokens)
        examples = rows.sft_examples(chat, at_most, STEPS * load.rows, "user", loads.user_share(here.assumed))
        ids, mask = chat.training_example("", examples[0].messages, "user")
        beside = replace(load.beside, row_tokens=len(ids), logit_share=sum(mask[1:]) / len(ids))
        load, real = replace(load, beside=beside), {example.session_id: example for example in examples}
        what += f", beside real sessions of {len(ids):,}"
    predicted = here.trained(load, row_tokens=row, logit_share=share, num_bytes=num_bytes)
    return Step(phase, what, predicted, here.job(train_on_alternatives, ((made, real), *rest), folder))


def engine(here: Here, name: str, settings: EngineConfig) -> Step:
    """Returns the start of one engine of the pool ``name``, and one request of the longest length."""
    if settings.backend == "scripted":
        raise ConfigError("it samples without a model")
    named = here.config.engines[name].model
    shape = here.model(here.config.simulator.model if named == "auto" else named).shape
    tokens = here.at_most(settings.max_model_len) - REPLY
    num_bytes = FLOAT32 if settings.served_dtype == "float32" else BFLOAT16
    device = "cpu" if settings.on_cpu else "cuda"
    if settings.backend == "transformers":
        predicted = request_memory(shape, tokens, num_bytes, CPU_RUNTIME["engine"] if settings.on_cpu else 0.0)
    else:
        predicted = engine_memory(
            shape,
            tensor_parallel=settings.tensor_parallel_size,
            max_num_seqs=settings.max_num_seqs,
            max_loras=settings.max_loras,
            max_lora_rank=settings.max_lora_rank,
            num_bytes=num_bytes,
            budget=settings.gpu_memory_utilization * _gpu_bytes(),
            kv_bytes=settings.kv_cache_bytes,
            runtime=CPU_RUNTIME["vllm"] if settings.on_cpu else here.assumed.runtime_gib * GIB,
        )
    job = Job(serve_one, (settings, tokens), settings.model, device, settings.threads,
              environment=actor_environment(settings))  # fmt: skip
    return Step(f"engine {name}", f"1 request of {tokens:,} tokens", predicted, job)


def chatbots(config: RunConfig) -> Iterator[str]:
    """Yields the engines whose chatbots are fine-tuned by the run."""
    trained = {s.engine for s in config.chatbots.values() if s.kind == "engine" and s.adapter == "trained"}
    yield from sorted(name for name in trained if name)


def _gpu_bytes() -> float:
    import torch

    return float(torch.cuda.get_device_properties(0).total_memory) if torch.cuda.is_available() else 0.0


def _whole(shard: bool, section: str) -> None:
    if shard:
        raise ConfigError(f"one worker measures, which has nothing to shard over; set {section}.shard to false to try")


def _rows(count: int, tokens: int) -> str:
    return f"{count} row{'s' * (count > 1)} of {tokens:,} tokens"
