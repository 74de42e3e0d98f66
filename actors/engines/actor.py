"""The Ray actor around one engine: its log file, its threads, its backend. Knows nothing of other replicas.

The class is plain Python; ``supervision.py`` makes it an actor. Whatever the engine or its children print goes to one
file, from before the backend is imported.
"""

from __future__ import annotations

import faulthandler
import logging
import os
from collections.abc import Sequence
from typing import Any

from actors.engines.config import Backend, EngineConfig
from actors.logs import redirect_output
from rlenv.core.types import Adapter, Generation, Sampling


class EngineActor:
    """One replica. Ray calls ``start`` once, then many ``generate`` at a time.

    Args:
        config: of the pool.
        index: which replica this is; names its log.
    """

    def __init__(self, config: EngineConfig, index: int) -> None:
        redirect_output(config.log_path(index))
        faulthandler.enable()
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s", force=True)
        self._engine = _engine_class(config.backend)(config)

    async def start(self) -> int:
        """Loads the model; returns the process id."""
        await self._engine.start()
        return os.getpid()

    async def generate(
        self,
        token_ids: Sequence[int],
        sampling: Sampling,
        adapter: Adapter | None = None,
        conversation: str | None = None,
    ) -> Generation:
        """See ``rlenv.core.protocols.Engine``."""
        return await self._engine.generate(token_ids, sampling, adapter, conversation)

    async def close(self) -> None:
        """Ends the engine and its children."""
        self._engine.close()


def _engine_class(backend: Backend) -> Any:
    """Returns the backend's class; its imports are the actor's alone."""
    if backend == "vllm":
        from actors.engines.vllm_engine import VllmEngine

        return VllmEngine
    if backend == "transformers":
        from actors.engines.transformers_engine import TransformersEngine

        return TransformersEngine
    from actors.engines.scripted_engine import ScriptedBackend

    return ScriptedBackend


def actor_environment(config: EngineConfig) -> dict[str, str]:
    """Returns the environment variables that an engine's actor and its children need: these, not all of ours."""
    threads = str(config.threads)
    environment = {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "NUMEXPR_NUM_THREADS": threads,
        "TOKENIZERS_PARALLELISM": "false",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "0",
    }
    if config.on_cpu:
        environment["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        if config.batch_invariant:
            environment["VLLM_CPU_ATTN_SPLIT_KV"] = "0"
        if config.eager:
            environment["TORCHDYNAMO_DISABLE"] = "1"  # vLLM compiles one small function at the first request: 3 to 25 s
    return environment
