"""vLLM's CPU worker with our changes: LoRA by rows, and matrix products that do not depend on the number of rows.

oneDNN multiplies a single row with another kernel, and another order of summation, than several rows (seen from an
inner dimension of 1536 on). Rows are therefore padded to a multiple of ``ROWS``. Together with attention that does not
split over keys (``actor_environment``), a request's log-probs are then bitwise independent of the rest of the batch.

Imported by vLLM itself, by name (``engine_args``), in the process that runs the model; needs vLLM for CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import pad
from vllm import _custom_ops
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
        ops: Any = _custom_ops
        ops.onednn_mm = padded_rows(ops.onednn_mm)
        super().load_model(*args, **kwargs)


Product = Callable[[Any, torch.Tensor, torch.Tensor | None], torch.Tensor]


def padded_rows(product: Product) -> Product:
    """Returns a function like ``product`` that pads the rows with zeros to a multiple of ``ROWS`` in between."""

    def padded(weights: Any, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        rows = x.shape[:-1].numel()
        if rows % ROWS == 0:
            return product(weights, x, bias)
        flat = pad(x.reshape(rows, x.shape[-1]), (0, 0, 0, -rows % ROWS))
        out = product(weights, flat, bias)
        return out[:rows].reshape(*x.shape[:-1], out.shape[-1])

    return padded
