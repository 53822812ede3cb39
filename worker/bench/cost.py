"""What the run-time backdoor costs, beside the bare passes that its losses need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from worker.bench.clock import now, peak
from worker.bench.output import table
from worker.bench.protection import editing
from worker.core.trigger import expanded, incomplete, without
from worker.models.abilities import EditOptions, Edits

BARE = 3  # times that the bare passes are run; the fastest counts


@dataclass(frozen=True)
class Cost:
    """Seconds are for all pictures together. Bare: forward and backward of the three edits that the losses need."""

    victim: str
    preset: str
    gradients: int
    seconds: float
    seconds_a_step: float
    bare_seconds: float
    peak_memory_bytes: int  # of the device on a GPU; of the process so far on a CPU


def cost_of(
    victim: str, preset: str, model: Edits, x: Tensor, trigger: Tensor, gradients: int, marks: Sequence[float]
) -> Cost:
    """`marks`: the time before the run and after every step. For a step's seconds the second half of the steps counts,
    by when every clean edit is made."""
    middle = len(marks) // 2
    later = len(marks) - 1 - middle
    return Cost(
        victim=victim,
        preset=preset,
        gradients=gradients,
        seconds=marks[-1] - marks[0],
        seconds_a_step=(marks[-1] - marks[middle]) / later if later else float("nan"),
        bare_seconds=bare(model, x, trigger, editing(preset)),
        peak_memory_bytes=peak(x),
    )


def bare(model: Any, x: Tensor, trigger: Tensor, how: EditOptions) -> float:
    """Seconds of forward and backward through one edit of each region, with nothing around it."""
    part = incomplete(expanded(trigger), 0, trigger)
    size = getattr(model, "size", None)
    if size is not None and size < x.shape[-1]:
        x = x[..., :size, :size]
    masks = [mask[..., : x.shape[-2], : x.shape[-1]] for mask in (trigger, part, without(part, trigger))]
    times = []
    for _ in range(BARE):
        began = now(x)
        for mask in masks:
            leaf = x.detach().requires_grad_()
            generators = [torch.Generator().manual_seed(0) for _ in x]
            made = model.edit(leaf, mask, [""] * len(x), generators, how)
            torch.autograd.grad(made.sum(), leaf)
        times.append(now(x) - began)
    return min(times)


def cost_table(costs: Sequence[Cost]) -> list[str]:
    lines: list[list[object]] = [
        ["against", "preset", "gradients", "seconds", "a step", "bare passes", "ratio", "peak memory, MiB"]
    ]
    for cost in costs:
        ratio = cost.seconds_a_step / cost.bare_seconds
        memory = cost.peak_memory_bytes // 2**20
        lines.append(
            [
                cost.victim,
                cost.preset,
                cost.gradients,
                cost.seconds,
                cost.seconds_a_step,
                cost.bare_seconds,
                ratio,
                memory,
            ]
        )
    return table(lines)
