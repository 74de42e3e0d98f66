"""The settings of one pool of engines: which model, on what hardware, with which limits.

Knows nothing of vLLM's or Ray's own options: each backend translates. The defaults suit a laptop CPU; a GPU is a
matter of these settings alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from rlenv.core.errors import ConfigError
from rlenv.models.hardware import resolve_precision

Backend = Literal["vllm", "transformers", "scripted"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)


@dataclass(frozen=True)
class EngineConfig:
    """One pool of equal engines. All problems of a config are raised in one ``ConfigError``."""

    model: str
    """Folder of the checkpoint (or its name on the hub)."""
    backend: Backend = "vllm"
    """``vllm``; ``transformers`` where vLLM cannot be installed; ``scripted`` says plain tokens without a model."""
    dtype: Dtype = "auto"
    """Of weights and activations; ``auto`` is the checkpoint's on a GPU, and on a CPU bfloat16 where it has it."""
    replicas: int = 1
    """Engines in the pool, each a Ray actor."""
    num_cpus: float = 1
    """CPUs that Ray sets aside, per replica."""
    num_gpus: float = 0
    """GPUs that Ray sets aside, per replica; 0 runs on the CPU. With tensor parallelism: its size."""
    tensor_parallel_size: int = 1
    """GPUs (on a CPU: processes) that share one replica's weights, under vLLM's own executor."""
    threads: int = 1
    """Threads that one process of a replica computes with."""
    max_model_len: int = 4096
    """Positions of prompt and reply together."""
    max_num_seqs: int = 64
    """Requests that one replica samples at once; the pool holds the others back."""
    gpu_memory_utilization: float = 0.9
    """Share of a GPU's memory, where ``kv_cache_gib`` does not say the cache's size."""
    kv_cache_gib: float | None = None
    """Size of one replica's key-value cache; None is 2 GiB on a CPU, and what is left on a GPU."""
    max_loras: int = 2
    """Adapter versions that one batch can mix; 0 switches LoRA off."""
    max_lora_rank: int = 8
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
    startup_timeout_s: float = 600.0
    """After which a replica that is not ready is an error."""
    max_restarts: int = 3
    """Deaths of replicas, of the whole pool, that are mended before an error."""

    def __post_init__(self) -> None:
        rules = [
            (bool(self.model), "model is empty; name a checkpoint folder"),
            (self.backend in get_args(Backend), f"backend is {self.backend!r}; use one of {get_args(Backend)}"),
            (self.dtype in ("auto", "float32", "bfloat16", "float16"), f"dtype is {self.dtype!r}; use e.g. 'bfloat16'"),
            *(
                (getattr(self, field) >= least, f"{field} is {getattr(self, field)}; the least is {least}")
                for field, least in (
                    ("replicas", 1), ("num_cpus", 0), ("num_gpus", 0), ("tensor_parallel_size", 1), ("threads", 1),
                    ("max_model_len", 2), ("max_num_seqs", 1), ("max_loras", 0), ("max_restarts", 0),
                )
            ),
            (
                0 < self.gpu_memory_utilization <= 1,
                f"gpu_memory_utilization is {self.gpu_memory_utilization}; use more than 0, up to 1",
            ),
            (self.kv_cache_gib is None or self.kv_cache_gib > 0, f"kv_cache_gib is {self.kv_cache_gib}; use > 0"),
            (self.max_lora_rank in LORA_RANKS, f"max_lora_rank is {self.max_lora_rank}; use one of {LORA_RANKS}"),
            (self.startup_timeout_s > 0, f"startup_timeout_s is {self.startup_timeout_s}; it must be > 0"),
            (
                self.num_gpus in (0, self.tensor_parallel_size) or self.tensor_parallel_size == 1,
                f"num_gpus is {self.num_gpus} for tensor_parallel_size {self.tensor_parallel_size}; they must be equal",
            ),
            (
                self.backend == "vllm" or self.tensor_parallel_size == 1,
                "tensor_parallel_size > 1 needs backend 'vllm'",
            ),
            (self.backend == "vllm" or not self.structured, "structured needs backend 'vllm'"),
        ]  # fmt: skip
        problems = [problem for holds, problem in rules if not holds]
        if problems:
            raise ConfigError(f"engine {self.name!r}: " + "; ".join(problems))

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
