"""Views: how a model gets to see a picture. The perturbation lives at the picture's full resolution; a view is a
differentiable function of it, images (N,3,H,W) in, images (N,3,h,w) out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

TOUCHED = 0.01  # share of a pixel inside a region from which the pixel is


@dataclass(frozen=True)
class WorkingSize:
    """The picture at about `size` × `size` pixels (same area, own shape), sides multiples of `multiple`.

    Larger pictures are reduced with an antialiased bicubic filter, as an editor's own preprocessing does; smaller ones
    keep their pixels. What then misses the multiple is padded by repeating the last row and column. `size` None: never
    reduced.
    """

    size: int | None = None
    multiple: int = 8

    def shape(self, height: int, width: int) -> tuple[int, int]:
        """The sides to which a picture is reduced, before padding."""
        if self.size is None:
            return height, width
        area = self.size**2
        scale = min(1.0, (area / (height * width)) ** 0.5, area / self.multiple / max(height, width))
        if scale == 1.0:
            return height, width
        return self._side(height * scale), self._side(width * scale)

    def __call__(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        shape = self.shape(height, width)
        if shape != (height, width):
            x = resize(x, shape)
        return pad(x, -shape[0] % self.multiple, -shape[1] % self.multiple)

    def region(self, mask: Tensor) -> Tensor:
        """A region (N,1,H,W), 1 inside, as the model sees it: what is partly inside counts in, padding does not."""
        height, width = mask.shape[-2:]
        shape = self.shape(height, width)
        if shape != (height, width):
            mask = (resize(mask, shape) > TOUCHED).to(mask)
        return F.pad(mask, (0, -shape[1] % self.multiple, 0, -shape[0] % self.multiple))

    def _side(self, length: float) -> int:
        whole = round(length / self.multiple) * self.multiple
        return whole if whole else max(1, round(length))


def largest_size(models: Sequence[object]) -> int | None:
    """The largest `size` of these models or attacks, in pixels; None where one of them sees every pixel."""
    sizes: list[int | None] = [getattr(model, "size", None) for model in models]
    known = [size for size in sizes if size is not None]
    return max(known) if len(known) == len(sizes) else None


def resize(x: Tensor, shape: tuple[int, int]) -> Tensor:
    """Bicubic resize with antialiasing to (height, width); differentiable, and the same bytes every time.

    On a GPU the gradient of torch's own antialiased resize adds up in no fixed order, so there the same filter is
    applied as two matrices.
    """
    if not x.is_cuda:
        return _interpolate(x, shape)
    rows = _filter(x.shape[-2], shape[0]).to(x.device, x.dtype)
    columns = _filter(x.shape[-1], shape[1]).to(x.device, x.dtype)
    return rows @ x @ columns.T


def pad(x: Tensor, down: int, right: int) -> Tensor:
    """Repeat the last row `down` times and the last column `right` times (replicate padding has no fixed-order gradient
    on a GPU; this has)."""
    if down:
        x = torch.cat([x, x[..., -1:, :].expand(*x.shape[:-2], down, x.shape[-1])], -2)
    if right:
        x = torch.cat([x, x[..., -1:].expand(*x.shape[:-1], right)], -1)
    return x


def _interpolate(x: Tensor, shape: tuple[int, int]) -> Tensor:
    return F.interpolate(x, shape, mode="bicubic", antialias=True, align_corners=False)


@lru_cache(maxsize=64)
def _filter(length: int, wanted: int) -> Tensor:
    """The matrix (wanted, length) that resizes one axis."""
    return _interpolate(torch.eye(length)[None, None], (wanted, length))[0, 0]


@dataclass(frozen=True)
class Bounded:
    """The picture reduced to at most `area` pixels, so that what follows needs bounded memory; None: as it is."""

    area: int | None

    def __call__(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        if self.area is None or height * width <= self.area:
            return x
        scale = (self.area / (height * width)) ** 0.5
        return resize(x, (max(1, round(height * scale)), max(1, round(width * scale))))


@dataclass(frozen=True)
class Shrunk:
    """The picture at `factor` of its sides, as a platform that makes thumbnails delivers it."""

    factor: float = 0.5

    def __call__(self, x: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        return resize(x, (max(1, round(height * self.factor)), max(1, round(width * self.factor)))).clamp(0, 1)


@dataclass
class ShrunkAndBack:
    """The picture shrunk by a random factor and brought back to its own size, as an editor does that needs its size."""

    generator: torch.Generator
    least: float = 0.45
    most: float = 0.6

    def __call__(self, x: Tensor) -> Tensor:
        factor = self.least + (self.most - self.least) * float(torch.rand((), generator=self.generator))
        return resize(Shrunk(factor)(x), (x.shape[-2], x.shape[-1])).clamp(0, 1)
