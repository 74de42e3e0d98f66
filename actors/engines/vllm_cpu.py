"""vLLM's CPU worker with our changes: LoRA by rows, and matrix products that do not depend on the number of rows.

Few rows are multiplied with another kernel, and another order of summation, than many: by oneDNN a single row (seen
from an inner dimension of 1536 on), by vLLM's own product for small weights up to four. Rows are therefore padded to a
multiple of ``ROWS``. On a CPU with AMX tiles the order of oneDNN's bfloat16 products also changes at 32 rows and
beyond, so vLLM's own product is taken there for weights of every size (a model of 135M parameters then takes a tenth
longer). Together with attention that does not split over keys (``actor_environment``), a request's log-probs are then
bitwise independent of the rest of the batch.

Imported by vLLM itself, by name (``engine_args``), in the process that runs the model; needs vLLM for CPU.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import pad
from vllm import _custom_ops
from vllm.model_executor.layers import utils
from vllm.platforms import current_platform
from vllm.v1.worker.cpu_worker import CPUWorker

ROWS = 8


class CpuWorker(CPUWorker):
    """Installs ``cpu_lora.GroupedLora`` before the model is loaded, in this process only."""

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        platform: Any = type(current_platform)
        platform.get_punica_wrapper = classmethod(lambda cls: "actors.engines.cpu_lora.GroupedLora")
        super().load_model(*args, **kwargs)


class InvariantCpuWorker(CpuWorker):
    """A ``CpuWorker`` whose results for one request do not depend on the others in the batch."""

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        install_invariant_products()
        super().load_model(*args, **kwargs)


def install_invariant_products() -> None:
    """Makes the products of layers that vLLM prepares after this call independent of the number of rows."""
    ops: Any = _custom_ops
    onednn, packed = ops.onednn_mm, ops.weight_packed_linear_cpu
    ops.onednn_mm = lambda weight, x, bias: padded(lambda rows: onednn(weight, rows, bias), x)
    ops.weight_packed_linear_cpu = lambda x, weight, n, bias: padded(lambda rows: packed(rows, weight, n, bias), x)
    layers: Any = utils
    layers._CPU_SGL_GEMM_MAX_WEIGHT_BYTES = sys.maxsize  # vLLM asks for AMX itself before it takes its own product


def padded(product: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Returns ``product(x)``, [..., n], of rows padded with zeros to a multiple of ``ROWS`` in between."""
    rows = x.shape[:-1].numel()
    if rows % ROWS == 0:
        return product(x)
    out = product(pad(x.reshape(rows, x.shape[-1]), (0, 0, 0, -rows % ROWS)))
    return out[:rows].reshape(*x.shape[:-1], out.shape[-1])
