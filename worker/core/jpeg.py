"""JPEG as a differentiable view: 8×8 DCT, quantisation by the standard tables, 4:2:0 chroma (ITU-T T.81, annex K).

Rounding passes gradients straight through. Only the loss of information is modelled; nothing is entropy-coded.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from worker.core.view import pad

BLOCK = 8
LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMA = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *((99,) * 8,) * 4,
)
TO_YCC = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


def jpeg_like(x: Tensor, quality: int) -> Tensor:
    """Images (N,3,H,W) in [0,1] as a JPEG of `quality` (1 to 100, 4:2:0) would show them, same shape."""
    height, width = x.shape[-2:]
    padded = pad(x, -height % (2 * BLOCK), -width % (2 * BLOCK))
    to_ycc = x.new_tensor(TO_YCC)
    ycc = torch.einsum("nchw,dc->ndhw", padded * 255, to_ycc)
    luma = _coded(ycc[:, :1] - 128, LUMA, quality) + 128
    chroma = _doubled(_doubled(_coded(F.avg_pool2d(ycc[:, 1:], 2), CHROMA, quality), 2), 3)
    rgb = torch.einsum("nchw,dc->ndhw", torch.cat([luma, chroma], 1), torch.linalg.inv(to_ycc)) / 255
    return rgb[..., :height, :width].clamp(0, 1)


@dataclass
class Recompressed:
    """The picture as a JPEG of random quality shows it."""

    generator: torch.Generator
    least: int = 65
    most: int = 85

    def __call__(self, x: Tensor) -> Tensor:
        return jpeg_like(x, int(torch.randint(self.least, self.most + 1, (), generator=self.generator)))


def _coded(plane: Tensor, table: tuple[tuple[int, ...], ...], quality: int) -> Tensor:
    """One plane (N,C,H,W) in 8-bit units through DCT, quantisation and back; H and W multiples of 8."""
    scale = 5000 / quality if quality < 50 else 200 - 2 * quality
    steps = ((plane.new_tensor(table) * scale + 50) / 100).floor().clamp(1, 255)
    basis = torch.tensor(_dct(), dtype=plane.dtype, device=plane.device)
    count, channels, height, width = plane.shape
    blocks = plane.view(count, channels, height // BLOCK, BLOCK, width // BLOCK, BLOCK).transpose(3, 4)
    coefficients = basis @ blocks @ basis.T / steps
    coefficients = coefficients + (coefficients.round() - coefficients).detach()
    return (basis.T @ (coefficients * steps) @ basis).transpose(3, 4).reshape(plane.shape)


def _doubled(plane: Tensor, dim: int) -> Tensor:
    """Twice the samples along an axis, each three parts the nearer old one and one part the next, as decoders do.

    By slices, not by interpolation: that has no fixed-order gradient on a GPU.
    """
    length = plane.shape[dim]
    before = torch.cat([plane.narrow(dim, 0, 1), plane.narrow(dim, 0, length - 1)], dim)
    after = torch.cat([plane.narrow(dim, 1, length - 1), plane.narrow(dim, length - 1, 1)], dim)
    pairs = torch.stack([plane * 0.75 + before * 0.25, plane * 0.75 + after * 0.25], dim + 1)
    return pairs.flatten(dim, dim + 1)


@cache
def _dct() -> tuple[tuple[float, ...], ...]:
    """The orthonormal 8-point DCT-II, a row a frequency."""
    return tuple(
        tuple(
            math.sqrt((1 if row == 0 else 2) / BLOCK) * math.cos(math.pi * (2 * column + 1) * row / (2 * BLOCK))
            for column in range(BLOCK)
        )
        for row in range(BLOCK)
    )
