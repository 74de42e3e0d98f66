"""In which number format a model computes, where the settings leave it to the hardware. Needs torch."""

from __future__ import annotations

from typing import Literal

Precision = Literal["auto", "float32", "bfloat16"]
PRECISIONS = ("auto", "float32", "bfloat16")


def resolve_precision(wanted: str, device: str) -> str:
    """Returns ``wanted``, or for "auto" bfloat16 where the hardware computes it and float32 elsewhere.

    A CPU without bfloat16 instructions emulates them: training SmolLM2-135M took 25 times as long as in float32.

    Args:
        wanted: "auto", or a format that is returned as it is.
        device: "cpu", or an accelerator such as "cuda:0".
    """
    import torch

    if wanted != "auto":
        return wanted
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bfloat16" if not device.startswith("cpu") or native else "float32"
