"""Step rules: a gradient in, a step out. Schedules: how much of that step is taken, by progress.

A rule is a small description; `begin()` gives the function that one run uses, with that run's per-image state. The
function takes a raw gradient (N,3,H,W) and the budget, and returns a step of up to the budget's full size, uphill.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from worker.core.budget import Budget

Step = Callable[[Tensor, Budget], Tensor]
Schedule = Callable[[float], float]


class StepRule(Protocol):
    def begin(self) -> Step:
        """A fresh step function, for one run."""


@dataclass(frozen=True)
class Sign:
    """Steepest ascent within the budget's norm: the sign for L-infinity, the unit gradient for L2 (PGD, Madry 2018)."""

    def begin(self) -> Step:
        return lambda gradient, budget: budget.steepest(gradient)


@dataclass(frozen=True)
class Momentum:
    """Steepest ascent along a running mean of gradients, each divided by its mean magnitude (MI-FGSM, Dong 2018).

    `consistency` above 0 shortens the step where gradients cancel out: the step is multiplied by
    (|mean of g| / mean of |g|) ** consistency, which is 1 where the sign never changed and near 0 where it flips.
    """

    decay: float = 0.6
    consistency: float = 0.0

    def begin(self) -> Step:
        mean: Tensor | None = None
        size: Tensor | None = None

        def step(gradient: Tensor, budget: Budget) -> Tensor:
            nonlocal mean, size
            unit = _unit(gradient)
            mean = unit.clone() if mean is None else mean.lerp_(unit, 1 - self.decay)
            if not self.consistency:
                return budget.steepest(mean)
            size = unit.abs_() if size is None else size.lerp_(unit.abs_(), 1 - self.decay)
            agreement = mean.abs().div_(size.clamp_(min=1e-12)).pow_(self.consistency)
            return budget.steepest(mean).mul_(agreement)

        return step


@dataclass(frozen=True)
class Adam:
    """Adam's direction (Kingma and Ba 2015), bounded by the budget: mean of g over root mean of g², bias-corrected."""

    decay: float = 0.9
    square_decay: float = 0.999

    def begin(self) -> Step:
        mean: Tensor | None = None
        square: Tensor | None = None
        count = 0

        def step(gradient: Tensor, budget: Budget) -> Tensor:
            nonlocal mean, square, count
            count += 1
            unit = _unit(gradient)
            mean = unit * (1 - self.decay) if mean is None else mean.lerp_(unit, 1 - self.decay)
            power = unit.square()
            square = power * (1 - self.square_decay) if square is None else square.lerp_(power, 1 - self.square_decay)
            first = mean / (1 - self.decay**count)
            root = (square / (1 - self.square_decay**count)).sqrt_().clamp_(min=1e-12)
            return budget.steepest(first).mul_((first.abs_() / root).clamp_(max=1))

        return step


def _unit(gradient: Tensor) -> Tensor:
    """Each image's gradient divided by its mean magnitude."""
    total: Tensor = torch.linalg.vector_norm(gradient, 1, dim=(1, 2, 3), keepdim=True)
    size = (total / gradient[0].numel()).clamp_(min=1e-30)
    return gradient / size


def constant(fraction: float) -> Schedule:
    """The same fraction of the budget at every step."""
    return lambda _: fraction


def linear(first: float, last: float) -> Schedule:
    """From `first` at progress 0 straight to `last` at progress 1."""
    return lambda progress: first + (last - first) * progress


def cosine(first: float, last: float) -> Schedule:
    """From `first` to `last` along half a cosine: slow, fast, slow."""
    return lambda progress: last + (first - last) * (1 + math.cos(math.pi * progress)) / 2
