"""Objectives one after the other: one budget around the originals, one count of steps and of gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from worker.core.budget import L2, Linf
from worker.core.objective import Expectation, Objective, Repeated
from worker.core.pgd import pgd
from worker.core.stages import descend, lengths
from worker.core.step import Adam, Momentum, Sign, constant, cosine, linear

RULES = {
    "sign": (Sign(), linear(0.5, 0.05)),
    "momentum": (Momentum(decay=0.5, consistency=0.5), cosine(1.4, 0.1)),
    "adam": (Adam(), constant(0.3)),
}
BUDGETS = {"linf": Linf(8 / 255), "linf per image": Linf(torch.tensor([8 / 255, 3 / 255])), "l2": L2(0.8)}


class Shift(Objective):
    """Distance from the originals plus a constant; how it was asked is kept."""

    def __init__(self, x: Tensor, by: float) -> None:
        self._wanted = x + by
        self.evaluated: list[Tensor] = []

    def loss(self, x: Tensor) -> Tensor:
        return (x - self._wanted).square().mean((1, 2, 3))

    def value_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        self.evaluated.append(x.clone())
        return super().value_and_grad(x)


@pytest.mark.parametrize("random_start", [True, False])
@pytest.mark.parametrize("norm", BUDGETS)
@pytest.mark.parametrize("rule", RULES)
def test_one_objective_is_pgd(rule, norm, random_start, pictures):
    x, (step, schedule), budget = pictures(2), RULES[rule], BUDGETS[norm]
    start = budget.start(x, [torch.Generator().manual_seed(index) for index in range(2)]) if random_start else None
    told: list[list[tuple[int, int]]] = [[], []]
    named = {"rule": step, "schedule": schedule, "steps": 5, "start": start, "measure": Shift(x, 0.2)}
    one = descend([Shift(x, 0.1)], x, budget, on_step=lambda *call: told[0].append(call[:2]), **named)
    other = pgd(Shift(x, 0.1), x, budget, on_step=lambda *call: told[1].append(call[:2]), **named)
    assert torch.equal(one.images, other.images)
    assert torch.equal(one.loss_initial, other.loss_initial)
    assert torch.equal(one.loss_final, other.loss_final)
    assert torch.equal(one.gradient_evaluations, other.gradient_evaluations)
    assert told[0] == told[1]


@pytest.mark.parametrize("norm", BUDGETS)
@pytest.mark.parametrize("rule", RULES)
def test_the_budget_is_around_the_originals_at_every_stage(rule, norm, pictures):
    """Three objectives that pull the same way: each alone would take the whole budget."""
    x, (step, schedule), budget = pictures(2), RULES[rule], BUDGETS[norm]
    goals = [Shift(x, 1.0) for _ in range(3)]
    out = descend(goals, x, budget, rule=step, schedule=schedule, steps=6)
    if isinstance(budget, L2):
        allowed, order = torch.tensor([0.8, 0.8]), 2
    else:
        allowed, order = torch.as_tensor(budget.epsilon).expand(2), torch.inf
    for seen in (*(images for goal in goals for images in goal.evaluated), out.images):
        assert (torch.linalg.vector_norm(seen - x, order, dim=(1, 2, 3)) <= allowed + 1e-6).all()
    assert torch.equal((out.images * 255).round() / 255, out.images)
    assert (out.loss_final < out.loss_initial).all()


@pytest.mark.parametrize(
    ("steps", "count", "wanted"),
    [
        (20, 1, [20]),
        (20, 2, [20, 10]),
        (20, 3, [20, 10, 10]),
        (5, 2, [5, 3]),
        (1, 3, [1, 1, 1]),
        (2, 2, [2, 1]),
        (0, 2, [0, 0]),
    ],
)
def test_lengths(steps, count, wanted):
    assert lengths(steps, count) == wanted


@pytest.mark.parametrize(("steps", "count"), [(6, 1), (6, 2), (5, 3), (1, 2)])
def test_steps_are_counted_on_to_their_total(steps, count, pictures):
    x, calls = pictures(2), []
    goals = [Shift(x, 0.1 * (index + 1)) for index in range(count)]
    descend(
        goals,
        x,
        Linf(0.1),
        rule=Sign(),
        schedule=constant(0.2),
        steps=steps,
        on_step=lambda *told: calls.append(told),
    )
    total = sum(lengths(steps, count))
    assert [(step, of) for step, of, _ in calls] == [(step, total) for step in range(1, total + 1)]
    assert all(losses.shape == (2,) for _, _, losses in calls)
    assert [len(goal.evaluated) for goal in goals] == lengths(steps, count)


def test_gradients_add_up(pictures):
    x = pictures(2)
    goals = [Shift(x, 0.1), Repeated(Shift(x, 0.2), 3), Repeated(Shift(x, 0.3), 2)]
    out = descend(goals, x, Linf(0.1), rule=Sign(), schedule=constant(0.2), steps=8)
    assert out.gradient_evaluations.tolist() == [8 + 4 * 3 + 4 * 2] * 2


def test_a_further_objective_goes_on_from_what_is_there(pictures):
    x = pictures(2)
    goals = [Shift(x, 0.1), Shift(x, 0.2)]
    out = descend(goals, x, Linf(8 / 255), rule=Sign(), schedule=constant(0.5), steps=4)
    first = pgd(Shift(x, 0.1), x, Linf(8 / 255), rule=Sign(), schedule=constant(0.5), steps=4)
    assert torch.equal(goals[1].evaluated[0], first.images)
    assert not torch.equal(out.images, x)


def test_a_further_objective_has_the_last_quarter_of_the_schedule(pictures):
    x, asked = pictures(1), []

    def schedule(progress: float) -> float:
        asked.append(round(progress, 6))
        return 0.1

    descend([Shift(x, 0.1), Shift(x, 0.2)], x, Linf(0.1), rule=Sign(), schedule=schedule, steps=8)
    assert asked == [index / 8 for index in range(8)] + [0.75 + index / 16 for index in range(4)]


def test_what_is_told_is_measured_on_the_originals_and_on_what_is_delivered(pictures):
    x, measure = pictures(2), Shift(pictures(2), 0.05)
    named = {"rule": Sign(), "schedule": constant(0.3), "steps": 4, "measure": measure}
    out = descend([Shift(x, 0.1), Shift(x, -0.1)], x, Linf(0.1), **named)
    torch.testing.assert_close(out.loss_initial, measure.loss(x))
    torch.testing.assert_close(out.loss_final, measure.loss(out.images))
    assert not measure.evaluated  # no gradient of it was taken


def test_a_stage_that_draws_anew_delivers_its_last_iterate(pictures):
    x = pictures(1)
    drawn = [Expectation(Shift(x, sign * 0.1), [lambda seen: seen]) for sign in (1, -1)]
    out = descend(drawn, x, Linf(8 / 255), rule=Sign(), schedule=constant(0.5), steps=4)
    assert (out.images <= x).all()
    assert (out.images < x).any()


def test_what_on_step_raises_ends_the_run(pictures):
    x, goals = pictures(1), [Shift(pictures(1), 0.1), Shift(pictures(1), 0.2)]

    def stop(step: int, steps: int, losses: Tensor) -> None:
        if step == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        descend(goals, x, Linf(0.1), rule=Sign(), schedule=constant(0.2), steps=4, on_step=stop)
    assert len(goals[1].evaluated) == 1
