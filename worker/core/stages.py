"""Objectives one after the other, each by projected gradient descent, all around the same originals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor

from worker.core.budget import Budget
from worker.core.objective import Objective
from worker.core.pgd import OnStep, Outcome, pgd
from worker.core.step import Schedule, StepRule

FURTHER = 0.5  # of the first objective's steps: what each further one takes
TAIL = 0.25  # of the schedule: what these steps are taken from


def lengths(steps: int, count: int) -> list[int]:
    """How many steps each of `count` objectives takes."""
    return [steps, *[round(steps * FURTHER + 0.49)] * (count - 1)]


def descend(
    objectives: Sequence[Objective],
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
    """As `pgd`, which it is for one objective. The first takes `steps` steps; each further one goes on from what is
    there, with half as many steps from the schedule's last quarter, so that it does not undo what was done."""
    outcome: Outcome | None = None
    counts, done = lengths(steps, len(objectives)), 0
    for objective, count in zip(objectives, counts, strict=True):
        step = pgd(
            objective,
            x,
            budget,
            rule=rule,
            schedule=schedule if outcome is None else _finer(schedule),
            steps=count,
            start=start if outcome is None else outcome.images,
            measure=measure,
            on_step=_counted(on_step, done, sum(counts)),
        )
        done += count
        if outcome is None:
            outcome = step
        else:
            taken = outcome.gradient_evaluations + step.gradient_evaluations
            outcome = replace(step, loss_initial=outcome.loss_initial, gradient_evaluations=taken)
    assert outcome is not None
    return outcome


def _finer(schedule: Schedule) -> Schedule:
    return lambda progress: schedule(1 - TAIL * (1 - progress))


def _counted(on_step: OnStep | None, done: int, total: int) -> OnStep | None:
    if on_step is None:
        return None
    tell = on_step
    return lambda step, _, losses: tell(done + step, total, losses)
