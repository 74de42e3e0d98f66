"""The settings of one pool of engines: model, hardware and limits.

Independent of the options of vLLM and Ray, to which each backend translates. The defaults suit a laptop CPU; for a GPU
only these settings need to change.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from rlenv.core.settings import Settings, settings
from rlenv.models.hardware import resolve_precision

Backend = Literal["vllm", "transformers", "scripted"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
LoraRank = Literal[1, 8, 16, 32, 64, 128, 256, 320, 512]


@settings
class EngineConfig(Settings):
    """One pool of equal engines."""

    model: str
    """Folder of the checkpoint (or its name on the hub)."""
    backend: Backend = "vllm"
    """``vllm``; ``transformers`` if vLLM cannot be installed; ``scripted`` samples tokens without a model."""
    dtype: Dtype = "auto"
    """Of weights and activations. ``auto``: the checkpoint's on a GPU; on a CPU bfloat16 if the hardware has it."""
    replicas: PositiveInt = 1
    """Engines in the pool, each a Ray actor."""
    num_cpus: NonNegativeFloat = 1
    """CPUs that Ray reserves per replica."""
    num_gpus: NonNegativeFloat = 0
    """GPUs that Ray reserves per replica; 0 runs on the CPU. Must equal ``tensor_parallel_size`` if that is above 1."""
    tensor_parallel_size: PositiveInt = 1
    """GPUs (on a CPU: processes) that share one replica's weights, under vLLM's own executor."""
    threads: PositiveInt = 1
    """Compute threads of each process of a replica."""
    max_model_len: int = Field(default=4096, ge=2)
    """The most tokens of prompt and reply together."""
    max_num_seqs: PositiveInt = 64
    """Requests that one replica samples concurrently; others wait."""
    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1)
    """Share of a GPU's memory to use if ``kv_cache_gib`` is not set."""
    kv_cache_gib: PositiveFloat | None = None
    """Size of one replica's key-value cache in GiB; None is 2 GiB on a CPU, and the remaining memory on a GPU."""
    max_loras: NonNegativeInt = 2
    """The most adapter versions in one batch; 0 switches LoRA off."""
    max_lora_rank: LoraRank = 8
    """The largest rank of any adapter; r = 8 is the paper's (Appendix F)."""
    adapter_tolerance: PositiveFloat | None = None
    """The mean difference of an engine's log-probs from those of an adapter's trainer up to which they agree, at the
    places of the adapter's canary. None: 0.005 in float32, 0.05 in float16, 0.15 in bfloat16."""
    structured: bool = False
    """Allow requests that constrain replies to a JSON schema (``Sampling.json_schema``); vLLM only."""
    enforce_eager: bool | None = None
    """True compiles nothing. None is True on a CPU, where compiling slows the start more than it speeds up sampling."""
    graph_sizes: tuple[PositiveInt, ...] = ()
    """Batch sizes for which vLLM captures CUDA graphs; a batch runs in the next larger graph, a larger one without.
    () is vLLM's choice: some 50 sizes, with and without adapters, whose capture takes up to 20 s of an engine's start.
    With sizes given, requests without an adapter share the graphs of those with one."""
    batch_invariant: bool | None = None
    """Whether a request's tokens and log-probs do not depend on other requests in the batch. None is True on a CPU and
    False on a GPU. On a CPU it is bitwise with ``threads`` 1; with more, vLLM's float32 log-probs still differ by up to
    1e-5 (use ``replicas`` for more cores). On a GPU, True sets vLLM's own switch ``VLLM_BATCH_INVARIANT``, which needs
    compute capability 9.0 (H100) and makes engines slower."""
    log_dir: str = "outputs/logs"
    """Folder of the engines' logs, ``<name>-<replica>.log``."""
    name: str = "engine"
    """The pool's name in logs and errors: simulator, chatbot."""
    seed: int = 0
    """Seed of requests that have none."""
    startup_timeout_s: PositiveFloat = 600.0
    """Seconds after which a replica that is not ready is an error."""
    answer_timeout_s: PositiveFloat = 1800.0
    """Seconds without an answer to any request, though there are some, after which a replica that is alive counts as
    hung and is restarted."""
    max_restarts: NonNegativeInt = 3
    """Restarts of one replica before its death is an error."""

    def problems(self) -> list[str]:
        """Returns the violated rules across fields, one line each."""
        size, problems = self.tensor_parallel_size, []
        if not self.model:
            problems.append("model: expected a checkpoint's folder or its name on the hub, got ''")
        if size > 1 and self.num_gpus not in (0, size):
            problems.append(f"num_gpus: {self.num_gpus:g} for tensor_parallel_size {size}; they must be equal")
        if size > 1 and self.backend != "vllm":
            problems.append("tensor_parallel_size: more than 1 needs backend 'vllm'")
        if self.graph_sizes and (self.on_cpu or self.eager or self.backend != "vllm"):
            problems.append("graph_sizes: CUDA graphs need backend 'vllm', num_gpus above 0 and not enforce_eager")
        if self.batch_invariant and not self.on_cpu and self.backend == "transformers":
            problems.append("batch_invariant: on a GPU needs backend 'vllm'; set it to null")
        if self.structured and self.backend != "vllm":
            problems.append("structured: needs backend 'vllm'")
        return problems

    @property
    def on_cpu(self) -> bool:
        """Whether the engines run on the CPU."""
        return self.num_gpus == 0

    @property
    def served_dtype(self) -> str:
        """The dtype passed to the backend."""
        return resolve_precision(self.dtype, "cpu") if self.on_cpu else self.dtype

    @property
    def eager(self) -> bool:
        """Whether nothing is compiled."""
        return self.on_cpu if self.enforce_eager is None else self.enforce_eager

    @property
    def invariant(self) -> bool:
        """Whether requests are made independent of their batch."""
        return self.on_cpu if self.batch_invariant is None else self.batch_invariant

    @property
    def kv_cache_bytes(self) -> int | None:
        """Size of the key-value cache in bytes; None leaves it to the engine."""
        gib = 2.0 if self.kv_cache_gib is None and self.on_cpu else self.kv_cache_gib
        return None if gib is None else int(gib * 2**30)

    def log_path(self, index: int) -> str:
        """Returns the log file of replica ``index`` and its child processes."""
        return f"{self.log_dir}/{self.name}-{index}.log"
