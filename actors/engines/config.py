"""The settings of one pool of engines: which model, on what hardware, with which limits.

Knows nothing of vLLM's or Ray's own options: each backend translates. The defaults suit a laptop CPU; a GPU is a
matter of these settings alone.
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
    """``vllm``; ``transformers`` where vLLM cannot be installed; ``scripted`` says plain tokens without a model."""
    dtype: Dtype = "auto"
    """Of weights and activations; ``auto`` is the checkpoint's on a GPU, and on a CPU bfloat16 where it has it."""
    replicas: PositiveInt = 1
    """Engines in the pool, each a Ray actor."""
    num_cpus: NonNegativeFloat = 1
    """CPUs that Ray sets aside, per replica."""
    num_gpus: NonNegativeFloat = 0
    """GPUs that Ray sets aside, per replica; 0 runs on the CPU. With tensor parallelism: its size."""
    tensor_parallel_size: PositiveInt = 1
    """GPUs (on a CPU: processes) that share one replica's weights, under vLLM's own executor."""
    threads: PositiveInt = 1
    """Threads that one process of a replica computes with."""
    max_model_len: int = Field(default=4096, ge=2)
    """Positions of prompt and reply together."""
    max_num_seqs: PositiveInt = 64
    """Requests that one replica samples at once; the others wait."""
    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1)
    """Share of a GPU's memory, where ``kv_cache_gib`` does not say the cache's size."""
    kv_cache_gib: PositiveFloat | None = None
    """Size of one replica's key-value cache; None is 2 GiB on a CPU, and what is left on a GPU."""
    max_loras: NonNegativeInt = 2
    """Adapter versions that one batch can mix; 0 switches LoRA off."""
    max_lora_rank: LoraRank = 8
    """The largest rank of any adapter; r = 8 is the paper's (Appendix F)."""
    structured: bool = False
    """Requests may hold replies to a JSON schema (``Sampling.json_schema``); vLLM only, with the model's tokenizer."""
    enforce_eager: bool | None = None
    """True compiles nothing. None is True on a CPU, where compiling costs a start more than it brings."""
    batch_invariant: bool = True
    """On a CPU: a request's tokens and log-probs do not depend on the requests beside it. Bitwise with ``threads`` 1;
    with more, vLLM's float32 log-probs still differ by up to 1e-5 (use ``replicas`` for more cores)."""
    log_dir: str = "outputs/logs"
    """Folder of the engines' logs, ``<name>-<replica>.log``."""
    name: str = "engine"
    """The pool's name in logs and errors: simulator, chatbot."""
    seed: int = 0
    """For requests that bring none."""
    startup_timeout_s: PositiveFloat = 600.0
    """After which a replica that is not ready is an error."""
    max_restarts: NonNegativeInt = 3
    """Deaths of one replica that are mended before an error."""

    def problems(self) -> list[str]:
        """Returns which rules between fields do not hold."""
        size, problems = self.tensor_parallel_size, []
        if not self.model:
            problems.append("model: expected a checkpoint's folder or its name on the hub, got ''")
        if size > 1 and self.num_gpus not in (0, size):
            problems.append(f"num_gpus: {self.num_gpus:g} for tensor_parallel_size {size}; they must be equal")
        if size > 1 and self.backend != "vllm":
            problems.append("tensor_parallel_size: more than 1 needs backend 'vllm'")
        if self.structured and self.backend != "vllm":
            problems.append("structured: needs backend 'vllm'")
        return problems

    @property
    def on_cpu(self) -> bool:
        """True where no GPU is asked for."""
        return self.num_gpus == 0

    @property
    def served_dtype(self) -> str:
        """What the backend is told."""
        return resolve_precision(self.dtype, "cpu") if self.on_cpu else self.dtype

    @property
    def eager(self) -> bool:
        """True where nothing is compiled."""
        return self.on_cpu if self.enforce_eager is None else self.enforce_eager

    @property
    def kv_cache_bytes(self) -> int | None:
        """Size of the key-value cache; None leaves it to the engine."""
        gib = 2.0 if self.kv_cache_gib is None and self.on_cpu else self.kv_cache_gib
        return None if gib is None else int(gib * 2**30)

    def log_path(self, index: int) -> str:
        """Returns the file that replica ``index`` and its child processes write to."""
        return f"{self.log_dir}/{self.name}-{index}.log"
