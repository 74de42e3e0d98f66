"""Checks that the token budgets of different sections fit each other.

A context may take all of ``context.budget_tokens``. A model that reads contexts and has fewer positions would fail at
the first conversation with a long context, hours into a run.
"""

from __future__ import annotations

from collections.abc import Iterator

from actors.engines.config import EngineConfig
from launch.run.config import RunConfig, SpeakerConfig
from rlenv.core.types import Sampling

LOWER = "lower context.budget_tokens"


def token_problems(config: RunConfig) -> list[str]:
    """Returns the settings that do not fit each other, each with both keys and what to change."""
    return [*_discriminator(config), *_sft(config), *_engines(config)]


def _discriminator(config: RunConfig) -> Iterator[str]:
    budget, longest = config.context.budget_tokens, config.discriminator.max_tokens
    if config.discriminator.use_context and longest <= budget:
        yield (
            f"discriminator.max_tokens: {longest} leaves no room for a session after context.budget_tokens = {budget}; "
            f"raise it, {LOWER}, or set discriminator.use_context to false"
        )


def _sft(config: RunConfig) -> Iterator[str]:
    budget = config.context.budget_tokens
    sections = [("sft", config.sft, config.simulator.adapter is None)]
    trained = any(s.adapter == "trained" and s.sees_context for s in config.chatbots.values() if s.kind == "engine")
    sections.append(("chatbot_sft", config.chatbot_sft, trained))
    for section, sft, used in sections:
        if used and sft.max_tokens is not None and sft.max_tokens <= budget:
            yield (
                f"{section}.max_tokens: {sft.max_tokens} leaves no room for a session after context.budget_tokens = "
                f"{budget}; raise it, set it to null, or {LOWER}"
            )


def _engines(config: RunConfig) -> Iterator[str]:
    if simulator := config.engines.get("simulator"):
        yield from _engine(config, simulator, "simulator", "simulator", config.simulator.sampling)
    for where, speakers in (("chatbots", config.chatbots), ("zero_shot", config.zero_shot)):
        for name, speaker in speakers.items():
            engine = config.engines.get(speaker.engine)
            if engine is not None and speaker.kind == "engine" and _reads_context(where, speaker):
                yield from _engine(config, engine, speaker.engine, f"{where}.{name}", speaker.sampling)


def _reads_context(where: str, speaker: SpeakerConfig) -> bool:
    return where == "zero_shot" or speaker.sees_context


def _engine(
    config: RunConfig, engine: EngineConfig, engine_name: str, speaker: str, sampling: Sampling
) -> Iterator[str]:
    budget, reply = config.context.budget_tokens, sampling.max_tokens
    if engine.max_model_len <= budget + reply:
        yield (
            f"engines.{engine_name}.max_model_len: {engine.max_model_len} positions do not hold "
            f"context.budget_tokens = {budget} and {speaker}.sampling.max_tokens = {reply}; raise it, or {LOWER}"
        )
