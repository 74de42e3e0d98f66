"""Memory and number formats of the machine that a process computes on.

By default glibc returns large freed blocks, and every training step faults them in anew: an eighth of a step of the
small Llama on the CPU (1,536 tokens). Knows nothing of models; torch is imported only where it is asked.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Literal

Precision = Literal["auto", "float32", "bfloat16"]
PRECISIONS = ("auto", "float32", "bfloat16")


M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4


TOP_PAD_BYTES = 64 << 20


def keep_freed_memory() -> bool:
    """Has this process reuse what it freed in place of returning it to the system; returns whether that took effect.

    For processes that allocate the same large blocks again and again. They stay as large as they have once been.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # a C library without it, as musl
        return False
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, TOP_PAD_BYTES))
    return all([mallopt(name, value) == 1 for name, value in settings])


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
