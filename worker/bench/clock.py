"""Time and memory of a device, as every benchmark measures them."""

from __future__ import annotations

import resource
import time

import torch
from torch import Tensor


def now(x: Tensor) -> float:
    """The time at which the device of x has done all it was asked, in seconds."""
    if x.is_cuda:
        torch.cuda.synchronize(x.device)
    return time.perf_counter()


def peak(x: Tensor) -> int:
    """The most bytes that were in use: of the device of x on a GPU, of the process so far on a CPU."""
    if x.is_cuda:
        return torch.cuda.max_memory_allocated(x.device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
