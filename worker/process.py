"""What a process that optimises sets once, at its start."""

from __future__ import annotations

import ctypes
import os
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc


def prepare() -> None:
    """Call before torch is imported. The three settings of every process that optimises:

    OpenMP threads sleep while they wait for one another. They spin by default, and as soon as anything else runs on
    one of the cores (a second worker, say), whoever waits burns the time that the one waited for needs: a photograph
    that takes four seconds then takes thirty. OMP_WAIT_POLICY set by the operator is kept.

    Freed memory is kept for the next step. glibc hands every large buffer back to the kernel and faults it in anew at
    the next step; on a CPU that is a quarter of an evaluation's time.

    On a GPU the same seed gives the same bytes.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):
            libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)
            libc.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
    import torch

    torch.backends.cudnn.deterministic = True
