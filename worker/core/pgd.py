"""Projected gradient descent: the only optimisation loop of the repository."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from worker.core.budget import Budget
from worker.core.objective import Objective
from worker.core.step import Schedule, StepRule

OnStep = Callable[[int, int, Tensor], None]


@dataclass(frozen=True)
class Outcome:
    """What a run delivers. Losses are (N,) float32, of the measuring objective."""

    images: Tensor  # (N,3,H,W), on the 8-bit grid, within budget
    loss_initial: Tensor
    loss_final: Tensor
    gradient_evaluations: Tensor  # (N,) int64


def pgd(
    objective: Objective,
    x: Tensor,
    budget: Budget,
    *,
    rule: StepRule,
    schedule: Schedule,
    steps: int,
    start: Tensor | None = None,
    measure: Objective | None = None,
    on_step: OnStep | None = None,
) -> Outcome:
    """Minimise `objective` over pictures within `budget` of the originals `x` (N,3,H,W) in [0,1].

    Each image has its own loss, budget and best iterate; the batch shares nothing but the arithmetic. `start` is where
    to begin (`x` itself if None). Where the objective is repeatable the best iterate is delivered, else the last.
    The result is snapped to the 8-bit grid inside the budget, and `measure` (the objective itself if None) is taken
    once more on exactly what is delivered.

    Nothing in the loop waits for the device, except what `on_step(step, steps, losses)` does with the losses (N,) of
    the pictures that step began with; what it raises ends the run.

    Madry et al. 2018; projection is around the original, unlike PhotoGuard's Algorithm 1 as printed, which subtracts
    an accumulated perturbation from a picture that has already moved.
    """
    measure = objective if measure is None else measure
    with torch.no_grad():
        loss_initial = measure.loss(x).float()
        step = rule.begin()
        x_adv = x.clone() if start is None else budget.project(start, x)
        best, best_loss = x_adv, torch.full_like(loss_initial, torch.inf)
        for index in range(steps):
            loss, gradient = objective.value_and_grad(x_adv)
            if objective.repeatable:
                better = (loss < best_loss).view(-1, 1, 1, 1)
                best, best_loss = torch.where(better, x_adv, best), torch.minimum(loss, best_loss)
            move = step(gradient, budget).mul_(schedule(index / steps))
            del gradient
            x_adv = budget.project(torch.sub(x_adv, move, out=move), x)
            if on_step is not None:
                on_step(index + 1, steps, loss)
        images = budget.snap(x_adv, x)
        loss_final = measure.loss(images).float()
        if objective.repeatable and steps and bool((best_loss < loss_final).any()):
            rival = budget.snap(best, x)
            rival_loss = measure.loss(rival).float()
            images = torch.where((rival_loss < loss_final).view(-1, 1, 1, 1), rival, images)
            loss_final = torch.minimum(rival_loss, loss_final)
    return Outcome(images, loss_initial, loss_final, torch.full((len(x),), steps * objective.gradients))
