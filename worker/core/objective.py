"""Objectives: what an attack minimises, one number per image.

An objective has `loss(x) -> (N,)` and `value_and_grad(x) -> ((N,), (N,3,H,W))`; the second is derived from the first
unless an objective knows a way that keeps less memory alive. Objectives compose: `Weighted`, `Parallel`, `Balanced`,
`Repeated`, `Expectation`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

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
    """The mean of several objectives, of several models say; their graphs are alive one at a time."""

    def __init__(self, objectives: Sequence[Objective]) -> None:
        if not objectives:
            raise ValueError("Parallel needs at least one objective")
        self._objectives = tuple(objectives)

    def loss(self, x: Tensor) -> Tensor:
        total = self._objectives[0].loss(x)
        for objective in self._objectives[1:]:
            total = total + objective.loss(x)
        return total / len(self._objectives)

    def value_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        total, gradient = self._objectives[0].value_and_grad(x)
        for objective in self._objectives[1:]:
            value, slope = objective.value_and_grad(x)
            total, gradient = total + value, gradient + slope  # autograd may hand out a view: not in place
        return total / len(self._objectives), gradient / len(self._objectives)

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
        for objective in self._objectives:
            value, slope = objective.value_and_grad(x)
            size = slope.abs().mean((1, 2, 3), keepdim=True).clamp_(min=1e-30)
            total, gradient = total + value, gradient + slope / size
        return total / len(self._objectives), gradient / len(self._objectives)


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
