"""The three regions of the run-time backdoor: the trigger, parts of it with its surroundings, the surroundings alone.

All are masks (N,1,H,W), 1 inside, of triggers of any shape and number. None of it has a gradient.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from worker.core.region import grown

REACH = 0.25  # how far a trigger is grown, of the square root of its area: 16 pixels for 64x64
GOLDEN = (math.sqrt(5) - 1) / 2  # of a turn between one cut and the next: any few of them are spread evenly


def reach(trigger: Tensor) -> list[int]:
    """How far each image's trigger is grown, in pixels."""
    return [max(1, round(math.sqrt(area) * REACH)) for area in trigger.sum((1, 2, 3)).tolist()]


def expanded(trigger: Tensor) -> Tensor:
    """The trigger and its surroundings: E(m), equation 7, a convolution with ones that is then clamped to {0,1}."""
    return torch.cat([grown(one, radius) for one, radius in zip(trigger.split(1), reach(trigger), strict=True)])


def incomplete(whole: Tensor, number: int) -> Tensor:
    """Half of the expanded trigger `whole`: what lies on one side of a straight cut, which `number` turns."""
    angle = 2 * math.pi * GOLDEN * number
    height, width = whole.shape[-2:]
    rows = torch.arange(height, device=whole.device, dtype=torch.float32)[:, None]
    columns = torch.arange(width, device=whole.device, dtype=torch.float32)[None]
    along = rows * math.sin(angle) + columns * math.cos(angle)
    halves = []
    for one in whole.split(1):
        inside = one[0, 0] > 0
        middle = along[inside].median() if bool(inside.any()) else along.mean()
        halves.append(one * (along <= middle).to(one))
    return torch.cat(halves)


def without(part: Tensor, trigger: Tensor) -> Tensor:
    """What of `part` lies outside the trigger: E'(m), equation 9."""
    return (part - trigger).clamp(0, 1)
