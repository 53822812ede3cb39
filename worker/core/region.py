"""Regions of a picture as masks (N,1,H,W), 1 inside: grown, shrunken, drawn at random. None of it has a gradient."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

LEAST, MOST = 0.15, 0.6  # share of a picture that a drawn region covers
REACH = 0.25  # how far a region is grown or shrunken at most, of the square root of its area


def grown(mask: Tensor, radius: int) -> Tensor:
    """The region and all within `radius` pixels of it, along rows and columns; shrunken for a radius below 0.

    An image whose region would vanish, or leave nothing outside, keeps the one it had.
    """
    made = _spread(mask, radius) if radius >= 0 else 1 - _spread(1 - mask, -radius)
    kept = (made.amax((1, 2, 3), keepdim=True) > 0) & (made.amin((1, 2, 3), keepdim=True) < 1)
    return torch.where(kept, made, mask)


def sides(mask: Tensor) -> list[float]:
    """Of each image's region: the side of the square of its area, in pixels. Waits for the device."""
    return [float(one.sum().sqrt()) for one in mask.split(1)]


def unforeseen(mask: Tensor, lengths: Sequence[float], generator: torch.Generator) -> Tensor:
    """The region as another hand would have drawn it: grown or shrunken by a random distance, each image's its own.

    `lengths`: the mask's `sides`, so that who asks for many of them reads those from the device once.
    """
    reach = (float(torch.rand((), generator=generator)) * 2 - 1) * REACH
    pairs = zip(mask.split(1), lengths, strict=True)
    return torch.cat([grown(one, round(length * reach)) for one, length in pairs])


def drawn(height: int, width: int, generator: torch.Generator) -> Tensor:
    """A random box (1,1,H,W), or in one case of four all but a box."""
    share, stretch, down, right, turn = torch.rand(5, generator=generator).tolist()
    area = (LEAST + (MOST - LEAST) * share) * height * width
    tall = min(height, max(1, round(area / width), round((area * 2 ** (stretch * 2 - 1)) ** 0.5)))
    wide = min(width, max(1, round(area / tall)))
    top, left = round(down * (height - tall)), round(right * (width - wide))
    mask = torch.zeros(1, 1, height, width)
    mask[..., top : top + tall, left : left + wide] = 1
    return 1 - mask if turn < 0.25 and mask.mean() < 1 else mask


def _spread(mask: Tensor, radius: int) -> Tensor:
    """The largest value within `radius`, an axis after the other."""
    if radius == 0:
        return mask
    across = F.max_pool2d(mask, (1, 2 * radius + 1), stride=1, padding=(0, radius))
    return F.max_pool2d(across, (2 * radius + 1, 1), stride=1, padding=(radius, 0))
