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
ON_GRID = 1e-3  # in grid units: an original this close to a grid point is on it (float32 rounds x*255 by 2e-5)
ROUNDING = 4e-7  # relative: what float32 loses in a size of k/255
TINY = 1e-18


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
        inside = x - size
        torch.maximum(x_adv, inside, out=inside)
        torch.minimum(inside, x + size, out=inside).clamp_(0, 1)
        return _within(inside, x, self.region)

    def steepest(self, gradient: Tensor) -> Tensor:
        step = gradient.sign().mul_(_per_image(self.epsilon, gradient))
        return step if self.region is None else step.mul_(self.region)

    def start(self, x: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        noise = _draw(torch.rand, x, generators) * 2 - 1
        return self.project(x + noise * _per_image(self.epsilon, x), x)

    def snap(self, x_adv: Tensor, x: Tensor) -> Tensor:
        size = _per_image(self.epsilon, x) * (LEVELS * (1 + ROUNDING))
        original, nearest = _in_levels(x)
        low = (original - size).ceil().clamp_(min=0)
        high = (original + size).floor().clamp_(max=LEVELS)
        snapped = torch.minimum(torch.maximum((x_adv * LEVELS).round(), low), high)
        snapped = torch.where(low > high, nearest, snapped)  # where the budget holds no grid point
        return _within(snapped, nearest, self.region) / LEVELS


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
        return allowed / _norm(allowed).clamp(min=TINY) * _per_image(self.radius, gradient)

    def start(self, x: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """A point on the sphere in a uniformly random direction (in high dimension nearly all of a ball is there)."""
        return self.project(x + self.steepest(_draw(torch.randn, x, generators)), x)

    def snap(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Rounds each change to whole levels; where that leaves the ball, by a higher threshold than one half.

        A threshold of one rounds towards `x`, which on the grid is always inside; off the grid it may take more, up to
        the grid point nearest to `x`, so the bisection has an answer for each image.
        """
        original, nearest = _in_levels(x)
        delta = self.project(x_adv, x) * LEVELS - nearest
        radius = _per_image(self.radius, x) * LEVELS
        size, sign = delta.abs(), delta.sign()

        def rounded(threshold: Tensor) -> Tensor:
            moved = nearest + (size - threshold).ceil_().clamp_(min=0).mul_(sign)
            return _within(moved.clamp_(0, LEVELS), nearest, self.region)

        low, high = torch.full_like(radius, 0.5).expand(len(x), 1, 1, 1), size.amax((1, 2, 3), keepdim=True) + 1
        high = torch.where(_norm(rounded(low) - original) <= radius, low, high)
        for _ in range(24):
            middle = (low + high) / 2
            fits = _norm(rounded(middle) - original) <= radius
            low, high = torch.where(fits, low, middle), torch.where(fits, middle, high)
        return rounded(high) / LEVELS


def _per_image(size: float | Tensor, x: Tensor) -> Tensor:
    if isinstance(size, Tensor):
        return size.to(x.device, x.dtype).view(-1, 1, 1, 1)
    return torch.full((1, 1, 1, 1), size, device=x.device, dtype=x.dtype)


def _in_levels(x: Tensor) -> tuple[Tensor, Tensor]:
    """Originals in /255, free of rounding where they are on the grid; and the grid points nearest to them."""
    levels = x * LEVELS
    nearest = levels.round()
    return torch.where((levels - nearest).abs() < ON_GRID, nearest, levels), nearest


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
