"""The object in one engine's process: it runs the backend and ends the process if the engine dies.

Independent of Ray and of other replicas.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

from actors.engines.config import Backend, EngineConfig
from actors.process import thread_environment
from rlenv.core.errors import EngineError
from rlenv.core.types import Adapter, Generation, Sampling

logger = logging.getLogger(__name__)


class EngineActor:
    """One replica: call ``start`` once, then ``generate_each`` concurrently.

    Args:
        config: the pool's settings.
    """

    def __init__(self, config: EngineConfig) -> None:
        self._engine = _engine_class(config.backend)(config)

    async def start(self) -> None:
        """Loads the model."""
        await self._engine.start()

    async def generate_each(
        self,
        token_ids: Sequence[int],
        sampling: Sampling,
        seeds: Sequence[int | None],
        adapter: Adapter | None = None,
        conversation: str | None = None,
    ) -> list[Generation]:
        """Returns a continuation for each seed; see ``rlenv.core.protocols.Engine``. If the engine is dead, its process
        is restarted."""
        try:
            return await self._engine.generate_each(token_ids, sampling, seeds, adapter, conversation)
        except EngineError as error:
            logger.critical("%s; the process ends", error)
            os._exit(1)

    async def close(self) -> None:
        """Ends the engine and its children."""
        self._engine.close()


def _engine_class(backend: Backend) -> Any:
    """Returns the backend's class, which is imported only in the actor."""
    if backend == "vllm":
        from actors.engines.vllm_engine import VllmEngine

        return VllmEngine
    if backend == "transformers":
        from actors.engines.transformers_engine import TransformersEngine

        return TransformersEngine
    from actors.engines.scripted_engine import ScriptedBackend

    return ScriptedBackend


def actor_environment(config: EngineConfig) -> dict[str, str]:
    """Returns the environment variables that an engine's actor and its child processes need."""
    environment = thread_environment(config.threads) | {
        "TOKENIZERS_PARALLELISM": "false",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "0",
    }
    if config.on_cpu:
        environment["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        if config.invariant:
            environment["VLLM_CPU_ATTN_SPLIT_KV"] = "0"
        if config.eager:
            environment["TORCHDYNAMO_DISABLE"] = "1"  # vLLM compiles one small function at the first request: 3 to 25 s
    elif config.invariant:
        environment["VLLM_BATCH_INVARIANT"] = "1"
    return environment
