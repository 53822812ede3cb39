"""Between PIL pictures and tensors (N,3,H,W) in [0,1]."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

WINDOW = 7
STRIP_PIXELS = 4_000_000


def to_tensor(picture: Image.Image) -> Tensor:
    """(1,3,H,W) float32 in [0,1] of an RGB picture, (1,1,H,W) of a grey one."""
    values = torch.from_numpy(np.array(picture, dtype=np.uint8))
    planes = values.permute(2, 0, 1) if values.ndim == 3 else values.unsqueeze(0)
    return planes.unsqueeze(0).float().div_(255)


def to_picture(x: Tensor) -> Image.Image:
    """The RGB picture of one image (1,3,H,W) in [0,1]; what is off the 8-bit grid is rounded to it."""
    values = (x[0].detach().float().clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(values.permute(1, 2, 0).cpu().numpy())


@dataclass(frozen=True)
class Quality:
    """How far a delivered picture is from its original."""

    linf_255: int  # largest difference over pixels and channels, in /255
    l2_255: float  # Euclidean norm of the difference, in /255
    psnr_db: float | None  # None when they are equal
    ssim: float | None  # Wang et al. 2004, 7x7 windows, mean of the channels; None under 7 pixels a side


def compare(original: Image.Image, delivered: Image.Image) -> Quality:
    """Measured strip by strip: a 40-megapixel picture needs no more memory than a strip does."""
    from skimage.metrics import structural_similarity  # scipy with it: half a second to import

    width, height = original.size
    rows = max(WINDOW, STRIP_PIXELS // width)
    largest, square, similarity, windows = 0, 0, 0.0, 0
    for top in range(0, height, rows):
        box = (0, top, width, min(height, top + rows))
        first, second = (np.asarray(picture.crop(box)).astype(np.int32) for picture in (original, delivered))
        difference = first - second
        largest = max(largest, int(np.abs(difference).max()))
        square += int(np.square(difference).sum(dtype=np.int64))
    if min(width, height) >= WINDOW:
        for top in range(0, height - WINDOW + 1, rows):  # strips overlap by a window less one row: no window is lost
            box = (0, top, width, min(height, top + rows + WINDOW - 1))
            first, second = (np.asarray(picture.crop(box)) for picture in (original, delivered))
            count = len(first) - WINDOW + 1
            similarity += count * float(structural_similarity(first, second, channel_axis=2, data_range=255))
            windows += count
    mean_square = square / (width * height * 3)
    return Quality(
        linf_255=largest,
        l2_255=round(square**0.5, 3),
        psnr_db=round(10 * math.log10(255**2 / mean_square), 2) if square else None,
        ssim=round(similarity / windows, 4) if windows else None,
    )
