"""Similarity inside a region: what the edited pixels are worth, picture by picture."""

from __future__ import annotations

import numpy as np
from skimage.metrics import structural_similarity
from torch import Tensor

LEAST = 1e-10  # mean square at which PSNR stops: 100 dB


def psnr(a: Tensor, b: Tensor, mask: Tensor) -> list[float]:
    """PSNR in dB of each picture (N,3,H,W) in [0,1] over the pixels of its mask (N,1,H,W) or (1,1,H,W); NaN for a mask
    with none."""
    weight = mask.expand(len(a), -1, -1, -1)
    square = ((a - b).square().mean(1, keepdim=True) * weight).sum((1, 2, 3)) / weight.sum((1, 2, 3))
    values: list[float] = (-10 * square.clamp(min=LEAST).log10()).tolist()
    return values


def ssim(a: Tensor, b: Tensor, mask: Tensor) -> list[float]:
    """SSIM (Wang et al. 2004, 7x7 windows, mean of the channels) likewise: its map, averaged over the mask's pixels."""
    found = []
    for first, second, region in zip(a, b, mask.expand(len(a), -1, -1, -1), strict=True):
        _, where = structural_similarity(
            first.cpu().numpy(), second.cpu().numpy(), channel_axis=0, data_range=1.0, full=True
        )
        inside = where.mean(0)[region[0].cpu().numpy() > 0]
        found.append(float(inside.mean()) if inside.size else float(np.nan))
    return found
