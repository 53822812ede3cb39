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
    return torch.cat([_surrounded(one, radius) for one, radius in zip(trigger.split(1), reach(trigger), strict=True)])


def incomplete(whole: Tensor, number: int, trigger: Tensor | None = None) -> Tensor:
    """Half of the expanded trigger `whole`: what lies on one side of a straight cut, which `number` turns.

    More than half where else less than a quarter of `trigger` were in it: of a narrow trigger at the picture's border,
    whose surroundings lie on one side.
    """
    angle = 2 * math.pi * GOLDEN * number
    height, width = whole.shape[-2:]
    rows = torch.arange(height, device=whole.device, dtype=torch.float32)[:, None]
    columns = torch.arange(width, device=whole.device, dtype=torch.float32)[None]
    along = rows * math.sin(angle) + columns * math.cos(angle)
    halves = []
    for index, one in enumerate(whole.split(1)):
        cut = _share(along, one, 0.5)
        if trigger is not None:
            cut = torch.maximum(cut, _share(along, trigger[index : index + 1], 0.25))
        halves.append(one * (along <= cut).to(one))
    return torch.cat(halves)


def without(part: Tensor, trigger: Tensor) -> Tensor:
    """What of `part` lies outside the trigger: E'(m), equation 9."""
    return (part - trigger).clamp(0, 1)


def _surrounded(one: Tensor, radius: int) -> Tensor:
    """Grown by `radius`, or by half of that as often as it takes for some of the picture to stay outside."""
    made = grown(one, radius)
    while radius > 1 and torch.equal(made, one):
        radius //= 2
        made = grown(one, radius)
    return made


def _share(along: Tensor, region: Tensor, share: float) -> Tensor:
    """The value of `along` (H,W) up to which this share of a region (1,1,H,W) lies."""
    values = along[region[0, 0] > 0].sort().values
    return values[int((len(values) - 1) * share)] if len(values) else along.mean()
