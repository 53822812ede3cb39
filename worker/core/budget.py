"""Budgets (threat models): how far a picture may be moved, and onto which points.

Images are (N,3,H,W) floats in [0,1]. A budget's size is one float for all, or a tensor (N,) with one per image. A
`region` (N,1,H,W) or (1,1,H,W), 1 where pixels may change and 0 elsewhere, keeps the rest of the picture as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

LEVELS = 255.0
GRID_SLACK = 1e-3  # in grid units: float32 rounding of x*255 for x in [0,1] is below 2e-5


class Budget(Protocol):
    """A set of pictures around each original, and how to move inside it."""

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """The nearest picture to `x_adv` that is within budget of the original `x`, in [0,1] and in the region."""

    def steepest(self, gradient: Tensor) -> Tensor:
        """The step of full budget size along which a linear function with this gradient rises most."""

    def snap(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """A picture on the 8-bit grid (multiples of 1/255) near `x_adv` and still within budget of `x`."""


class Start(Protocol):
    """A budget from which a random picture can be drawn."""

    def start(self, x: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """A random picture within budget of each original; image i draws from `generators[i]`."""


@dataclass(frozen=True)
class Linf:
    """max |x_adv - x| <= epsilon, over every pixel and channel. `epsilon` in [0,1] units: 8/255, say."""

    epsilon: float | Tensor
    region: Tensor | None = None

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        size = _per_image(self.epsilon, x)
        inside = torch.minimum(torch.maximum(x_adv, x - size), x + size).clamp_(0, 1)
        return _within(inside, x, self.region)

    def steepest(self, gradient: Tensor) -> Tensor:
        step = gradient.sign() * _per_image(self.epsilon, gradient)
        return step if self.region is None else step * self.region

    def start(self, x: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        noise = _draw(torch.rand, x, generators) * 2 - 1
        return self.project(x + noise * _per_image(self.epsilon, x), x)

    def snap(self, x_adv: Tensor, x: Tensor) -> Tensor:
        size = _per_image(self.epsilon, x)
        low = ((x - size).clamp(min=0) * LEVELS - GRID_SLACK).ceil()
        high = ((x + size).clamp(max=1) * LEVELS + GRID_SLACK).floor()
        snapped = torch.minimum(torch.maximum((x_adv * LEVELS).round(), low), high)
        nearest = (x * LEVELS).round()  # where the budget holds no grid point (an original off the grid)
        return _within(torch.where(low > high, nearest, snapped) / LEVELS, x, self.region)


@dataclass(frozen=True)
class L2:
    """Euclidean norm of x_adv - x, over a whole image, <= radius. `radius` in [0,1] units."""

    radius: float | Tensor
    region: Tensor | None = None

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Scaled back onto the ball, then clamped into [0,1]: clamping towards `x`'s own range cannot leave it."""
        delta = _within(x_adv, x, self.region) - x
        scale = (_per_image(self.radius, x) / _norm(delta).clamp(min=1e-12)).clamp(max=1)
        return (x + delta * scale).clamp_(0, 1)

    def steepest(self, gradient: Tensor) -> Tensor:
        allowed = gradient if self.region is None else gradient * self.region
        return allowed / _norm(allowed).clamp(min=1e-12) * _per_image(self.radius, gradient)

    def start(self, x: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """A point on the sphere in a uniformly random direction (in high dimension nearly all of a ball is there)."""
        return self.project(x + self.steepest(_draw(torch.randn, x, generators)), x)

    def snap(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Rounds to the grid; where that leaves the ball, the least certain roundings away from `x` go the other way.

        Rounding every change towards zero is always inside, so the bisection on how certain is certain enough has an
        answer for each image.
        """
        delta = (self.project(x_adv, x) - x) * LEVELS
        radius = _per_image(self.radius, x) * LEVELS
        size, sign = delta.abs(), delta.sign()
        whole, fraction = size.floor(), size.frac()
        low, high = torch.full_like(radius, 0.5), torch.full_like(radius, 1.0)
        inside = _norm(whole + (fraction >= low)) <= radius
        for _ in range(16):
            middle = (low + high) / 2
            fits = _norm(whole + (fraction >= middle)) <= radius
            low, high = torch.where(fits, low, middle), torch.where(fits, middle, high)
        threshold = torch.where(inside, torch.full_like(high, 0.5), high)
        rounded = (x * LEVELS + (whole + (fraction >= threshold)) * sign).round().clamp(0, LEVELS)
        return _within(rounded / LEVELS, x, self.region)


def _per_image(size: float | Tensor, x: Tensor) -> Tensor:
    if isinstance(size, Tensor):
        return size.to(x.device, x.dtype).view(-1, 1, 1, 1)
    return torch.full((1, 1, 1, 1), size, device=x.device, dtype=x.dtype)


def _within(x_adv: Tensor, x: Tensor, region: Tensor | None) -> Tensor:
    return x_adv if region is None else torch.where(region > 0, x_adv, x)


def _norm(delta: Tensor) -> Tensor:
    size: Tensor = torch.linalg.vector_norm(delta, dim=(1, 2, 3), keepdim=True)
    return size


def _draw(draw: Draw, x: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """One draw per image, on the CPU: a seed means the same on every device and in every batch."""
    if len(generators) != len(x):
        raise ValueError(f"{len(generators)} generators for {len(x)} images; give one each")
    return torch.stack([draw(x.shape[1:], generator=generator) for generator in generators]).to(x.device, x.dtype)


class Draw(Protocol):
    def __call__(self, size: torch.Size, *, generator: torch.Generator) -> Tensor: ...
