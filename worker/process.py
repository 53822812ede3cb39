"""What a process that optimises sets once, at its start."""

from __future__ import annotations

import ctypes
import sys

import torch

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc


def prepare() -> None:
    """Keep freed memory for the next step, and make the same seed give the same bytes on a GPU.

    glibc hands every large buffer back to the kernel when it is freed and faults it in anew at the next step; on a CPU
    that is a quarter of an evaluation's time.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)
            libc.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
    torch.backends.cudnn.deterministic = True
