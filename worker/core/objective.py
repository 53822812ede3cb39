"""Objectives: what an attack minimises, one number per image.

An objective has `loss(x) -> (N,)` and `value_and_grad(x) -> ((N,), (N,3,H,W))`; the second is derived from the first
unless an objective knows a way that keeps less memory alive. Objectives compose: `Weighted`, `Parallel`, `Balanced`,
`Repeated`, `Expectation`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch
from torch import Tensor

View = Callable[[Tensor], Tensor]


def chain(*views: View) -> View:
    """One view after the other."""

    def seen(x: Tensor) -> Tensor:
        for view in views:
            x = view(x)
        return x

    return seen


class Objective(ABC):
    """Something to minimise over pictures x (N,3,H,W). Image i's loss depends on image i alone."""

    @abstractmethod
    def loss(self, x: Tensor) -> Tensor:
        """The loss of each image, (N,) float32, differentiable in x."""

    def value_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Losses (N,) and their gradient (N,3,H,W); no graph is kept."""
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            loss = self.loss(leaf)
            (gradient,) = torch.autograd.grad(loss.sum(), leaf)
        return loss.detach(), gradient

    @property
    def repeatable(self) -> bool:
        """Whether two evaluations can be compared. Not so for random views: then no best iterate is kept."""
        return True

    @property
    def gradients(self) -> int:
        """How many gradients one evaluation takes."""
        return 1


class Weighted(Objective):
    """An objective times a constant."""

    def __init__(self, objective: Objective, weight: float) -> None:
        self._objective, self._weight = objective, weight

    def loss(self, x: Tensor) -> Tensor:
        return self._objective.loss(x) * self._weight

    @property
    def repeatable(self) -> bool:
        return self._objective.repeatable

    @property
    def gradients(self) -> int:
        return self._objective.gradients


class Parallel(Objective):
    """The weighted sum of several objectives, of several models say, or with no weights their mean; their graphs are
    alive one at a time."""

    def __init__(self, objectives: Sequence[Objective], weights: Sequence[float] | None = None) -> None:
        if not objectives:
            raise ValueError("Parallel needs at least one objective")
        self._objectives = tuple(objectives)
        self._weights = tuple(weights) if weights is not None else (1 / len(objectives),) * len(objectives)
        if len(self._weights) != len(self._objectives):
            raise ValueError(f"{len(self._weights)} weights for {len(self._objectives)} objectives; give one each")

    def loss(self, x: Tensor) -> Tensor:
        return _summed(weight * each.loss(x) for each, weight in self._parts())

    def value_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        total, gradient = torch.zeros(len(x), device=x.device), torch.zeros_like(x)
        for objective, weight in self._parts():
            value, slope = objective.value_and_grad(x)
            total, gradient = total + weight * value, gradient.add_(slope, alpha=weight)
        return total, gradient

    def _parts(self) -> Iterator[tuple[Objective, float]]:
        return zip(self._objectives, self._weights, strict=True)

    @property
    def repeatable(self) -> bool:
        return all(objective.repeatable for objective in self._objectives)

    @property
    def gradients(self) -> int:
        return max(objective.gradients for objective in self._objectives)


class Balanced(Parallel):
    """Several objectives whose gradients count alike: each image's is divided by its mean magnitude before the mean is
    taken, so that a model with steep slopes does not drown the others. The loss is the plain mean."""

    def value_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        total, gradient = torch.zeros(len(x), device=x.device), torch.zeros_like(x)
        for objective, weight in self._parts():
            value, slope = objective.value_and_grad(x)
            size = slope.abs().mean((1, 2, 3), keepdim=True).clamp_(min=1e-30)
            total, gradient = total + weight * value, gradient.add_(slope / size, alpha=weight)
        return total, gradient


class Repeated(Parallel):
    """The mean of several evaluations of an objective that draws anew each time; one graph is alive at a time."""

    def __init__(self, objective: Objective, times: int) -> None:
        super().__init__([objective] * times)

    @property
    def gradients(self) -> int:
        return len(self._objectives) * super().gradients


class Expectation(Objective):
    """An objective over views of the picture, taken in turn, one an evaluation (expectation over transformation,
    Athalye et al. 2018). A view may draw anew each time it is called."""

    def __init__(self, objective: Objective, views: Sequence[View]) -> None:
        if not views:
            raise ValueError("Expectation needs at least one view")
        self._objective, self._views, self._turn = objective, tuple(views), 0

    def loss(self, x: Tensor) -> Tensor:
        view = self._views[self._turn % len(self._views)]
        self._turn += 1
        return self._objective.loss(view(x))

    @property
    def repeatable(self) -> bool:
        return False

    @property
    def gradients(self) -> int:
        return self._objective.gradients


def _summed(values: Iterable[Tensor]) -> Tensor:
    first, *rest = values
    return sum(rest, first)
