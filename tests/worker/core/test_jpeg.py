"""JPEG as a view, against Pillow's real JPEG."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from worker.core.jpeg import jpeg_like


def scene(height: int, width: int) -> torch.Tensor:
    """A picture (1,3,H,W) with gradients, edges, colour and some grain, on the 8-bit grid."""
    generator = torch.Generator().manual_seed(0)
    down, right = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    disc = ((down - 0.5) ** 2 + (right - 0.4) ** 2 < 0.08).float()
    planes = [0.2 + 0.5 * right + 0.2 * disc, 0.7 - 0.4 * down + 0.1 * (right * 20).sin(), 0.3 + 0.4 * disc * right]
    grain = torch.randn((3, height, width), generator=generator) * 0.01
    return ((torch.stack(planes) + grain).clamp(0, 1) * 255).round()[None] / 255


def pillows(x: torch.Tensor, quality: int) -> torch.Tensor:
    pixels = (x[0] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=quality, subsampling=2)
    return torch.from_numpy(np.array(Image.open(out))).permute(2, 0, 1)[None].float() / 255


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return -10 * math.log10((a - b).square().mean().item())


SIZES = [(96, 128), (33, 47), (100, 37), (8, 9)]


@pytest.mark.parametrize("quality", [50, 75, 90])
@pytest.mark.parametrize("size", SIZES)
def test_close_to_a_real_jpeg(size, quality):
    x = scene(*size)
    made, real = jpeg_like(x, quality), pillows(x, quality)
    assert made.shape == x.shape
    assert psnr(made, real) > 36
    assert psnr(made, real) > psnr(x, real) + 3  # nearer to the JPEG than what went into it


@pytest.mark.parametrize("quality", [1, 25, 50, 75, 90, 100])
@pytest.mark.parametrize("size", [(33, 47), (1, 1)])
def test_gradients_reach_every_pixel(size, quality):
    x = (scene(64, 64)[..., : size[0], : size[1]] * 0.8 + 0.1).requires_grad_()
    weight = torch.rand(x.shape, generator=torch.Generator().manual_seed(1)) + 0.1
    made = jpeg_like(x, quality)
    (gradient,) = torch.autograd.grad((made * weight).sum(), x)
    assert made.isfinite().all()
    assert made.min() >= 0
    assert made.max() <= 1
    assert gradient.isfinite().all()
    assert (gradient != 0).float().mean() > 0.8  # clamped pixels have none


def test_a_batch_is_each_image_alone():
    x = torch.cat([scene(20, 24), 1 - scene(20, 24)])
    together = jpeg_like(x, 60)
    assert all(torch.allclose(jpeg_like(x[i : i + 1], 60)[0], together[i], atol=1e-5) for i in range(2))
