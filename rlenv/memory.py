"""What glibc does with freed memory: by default it returns large blocks, and every training step faults them in anew.

A step of the small Llama on the CPU (1,536 tokens) spent an eighth of its time there. Knows nothing of models.
"""

from __future__ import annotations

import ctypes
import sys

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
