"""Sets the allocator of a process and chooses a number format for its hardware.

By default glibc returns large freed blocks to the system, and every training step page-faults them in again: an eighth
of the time of a step of the small Llama on the CPU (1,536 tokens). Independent of models; torch is imported only inside
the function that needs it.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Literal

Precision = Literal["auto", "float32", "bfloat16"]
PRECISIONS = ("auto", "float32", "bfloat16")


M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -2, -3, -4


TOP_PAD_BYTES = 64 << 20


def keep_freed_memory() -> bool:
    """Makes this process reuse freed memory instead of returning it to the system; returns whether that took effect.

    Useful for processes that allocate the same large blocks repeatedly. Their size never shrinks again.
    """
    return _set_allocator((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, TOP_PAD_BYTES))


def return_freed_memory() -> bool:
    """Makes this process return freed blocks of 64 KiB and more to the system; returns whether that took effect.

    Its size is then that of what it holds, without the gaps between blocks that an allocator keeps. Slower.
    """
    return _set_allocator((M_MMAP_THRESHOLD, 64 << 10), (M_TRIM_THRESHOLD, 64 << 10), (M_TOP_PAD, 0))


def _set_allocator(*settings: tuple[int, int]) -> bool:
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # a C library without mallopt, such as musl
        return False
    return all([mallopt(name, value) == 1 for name, value in settings])


def resolve_precision(precision: str, device: str) -> str:
    """Returns ``precision``; for "auto", bfloat16 if the hardware supports it, else float32.

    A CPU without bfloat16 instructions emulates them: training SmolLM2-135M then takes 25 times as long as in float32.

    Args:
        precision: "auto", or a format, which is returned unchanged.
        device: "cpu", or an accelerator such as "cuda:0".
    """
    import torch

    if precision != "auto":
        return precision
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bfloat16" if not device.startswith("cpu") or native else "float32"
