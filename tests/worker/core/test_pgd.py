"""The loop: a table of attack × budget × rule, and what it promises of every run."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from worker.attacks.encoder import EncoderAttack
from worker.core.budget import L2, Linf
from worker.core.objective import Expectation, Objective
from worker.core.pgd import pgd
from worker.core.step import Adam, Momentum, Sign, constant, cosine, linear

LEFT = (torch.arange(32) < 20).float().expand(1, 1, 24, 32)
BUDGETS = {
    "linf": Linf(8 / 255),
    "linf per image": Linf(torch.tensor([8 / 255, 4 / 255])),
    "linf fractional": Linf(7.65 / 255),
    "linf in a region": Linf(8 / 255, LEFT),
    "l2": L2(0.8),
    "l2 in a region": L2(0.8, LEFT),
}
RULES = {
    "sign": (Sign(), linear(0.5, 0.05)),
    "momentum": (Momentum(decay=0.5, consistency=0.5), cosine(1.4, 0.1)),
    "adam": (Adam(), constant(0.3)),
}
ATTACKS = {
    "gray": {"target": "gray"},
    "inverted norm": {"target": "inverted", "distance": "norm"},
    "zero, two encoders": {"target": "zero"},
}
TABLE = list(itertools.product(ATTACKS, BUDGETS, RULES))


@pytest.fixture
def objective(request, encoder, pictures):
    def make(attack: str, x: Tensor) -> Objective:
        models = [encoder(4, 8, None, 0), encoder(6, 4, None, 1)] if "two" in attack else encoder()
        return EncoderAttack(models, **ATTACKS[attack]).objective(x)

    return make


def levels(images: Tensor, x: Tensor, budget: Linf | L2) -> Tensor:
    """The distance between two pictures on the grid, in /255."""
    moved = (images * 255).round() - (x * 255).round()
    return torch.linalg.vector_norm(moved, torch.inf if isinstance(budget, Linf) else 2, dim=(1, 2, 3))


def allowed(budget: Linf | L2) -> Tensor:
    return torch.as_tensor(budget.epsilon if isinstance(budget, Linf) else budget.radius) * 255


@pytest.mark.parametrize(("attack", "norm", "rule"), TABLE, ids=map("-".join, TABLE))
def test_every_run(attack, norm, rule, objective, pictures):
    x, budget, (step, schedule) = pictures(2), BUDGETS[norm], RULES[rule]
    goal = objective(attack, x)
    out = pgd(goal, x, budget, rule=step, schedule=schedule, steps=8)
    assert (out.loss_final < out.loss_initial).all()
    assert torch.equal((out.images * 255).round() / 255, out.images)
    assert (levels(out.images, x, budget) <= allowed(budget) * (1 + 1e-6)).all()
    assert (levels(out.images, x, budget) > 0).all()
    if budget.region is not None:
        assert torch.equal(out.images[..., 20:], x[..., 20:])
    torch.testing.assert_close(out.loss_initial, goal.loss(x))
    torch.testing.assert_close(out.loss_final, goal.loss(out.images))
    assert out.gradient_evaluations.tolist() == [8, 8]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("norm", ["linf per image", "l2"])
def test_a_batch_is_each_image_alone(norm, rule, objective, pictures):
    """But for the last bit of a convolution, which a sign may turn into one grid level."""
    x, (step, schedule) = pictures(2), RULES[rule]
    together = pgd(objective("inverted norm", x), x, BUDGETS[norm], rule=step, schedule=schedule, steps=6)
    for index in range(2):
        one = x[index : index + 1]
        budget = Linf(BUDGETS[norm].epsilon[index : index + 1]) if norm != "l2" else BUDGETS[norm]
        alone = pgd(objective("inverted norm", one), one, budget, rule=step, schedule=schedule, steps=6)
        torch.testing.assert_close(alone.loss_final[0], together.loss_final[index], rtol=1e-3, atol=1e-5)
        assert (alone.images[0] != together.images[index]).float().mean() < 0.01


@pytest.mark.parametrize("rule", RULES)
def test_the_same_start_gives_the_same_bytes(rule, objective, pictures):
    x, (step, schedule), budget = pictures(2), RULES[rule], BUDGETS["linf"]

    def run(seed: int) -> Tensor:
        start = budget.start(x, [torch.Generator().manual_seed(seed + index) for index in range(2)])
        return pgd(objective("gray", x), x, budget, rule=step, schedule=schedule, steps=4, start=start).images

    assert torch.equal(run(5), run(5))
    assert not torch.equal(run(5), run(6))


class Near(Objective):
    """Distance to the original plus a shift (N,): an objective that a long step jumps over."""

    def __init__(self, x: Tensor, shift: Tensor) -> None:
        self._wanted = x + shift.view(-1, 1, 1, 1)
        self.seen: list[Tensor] = []

    def loss(self, x: Tensor) -> Tensor:
        return (x - self._wanted).square().mean((1, 2, 3))

    def value_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = super().value_and_grad(x)
        self.seen.append(value)
        return value, gradient


def test_the_best_iterate_of_each_image_is_delivered():
    """Image 0 is best where it began, image 1 after one step, image 2 at the last."""
    x = torch.full((3, 3, 8, 8), 128 / 255)
    goal = Near(x, torch.tensor([1.0, 6.4, 30.0]) / 255)
    out = pgd(goal, x, Linf(8 / 255), rule=Sign(), schedule=constant(0.75), steps=5)
    assert [int(level) for level in levels(out.images, x, Linf(1))] == [0, 6, 8]
    torch.testing.assert_close(out.loss_final, goal.loss(out.images))
    assert (out.loss_final <= torch.stack(goal.seen).amin(0) + 1e-7).all()


def test_without_comparable_losses_the_last_iterate_is_delivered():
    x = torch.full((1, 3, 8, 8), 128 / 255)
    goal = Near(x, torch.tensor([1.0]) / 255)
    views = Expectation(goal, [lambda seen: seen])
    out = pgd(views, x, Linf(8 / 255), rule=Sign(), schedule=constant(0.75), steps=1, measure=goal)
    assert levels(out.images, x, Linf(1)).tolist() == [6]
    torch.testing.assert_close(out.loss_final, goal.loss(out.images))


def test_measure_is_what_the_outcome_tells(pictures):
    x = pictures(2)
    goal, measure = Near(x, torch.full((2,), 0.1)), Near(x, torch.full((2,), 0.2))
    out = pgd(goal, x, Linf(0.1), rule=Sign(), schedule=constant(0.5), steps=3, measure=measure)
    torch.testing.assert_close(out.loss_initial, measure.loss(x))
    torch.testing.assert_close(out.loss_final, measure.loss(out.images))
    assert not measure.seen  # no gradient of it was taken


def test_on_step_is_told_of_every_step(objective, pictures):
    x, calls = pictures(2), []
    goal = objective("gray", x)
    pgd(goal, x, Linf(0.1), rule=Sign(), schedule=constant(0.2), steps=3, on_step=lambda *told: calls.append(told))
    assert [(step, steps) for step, steps, _ in calls] == [(1, 3), (2, 3), (3, 3)]
    assert all(losses.shape == (2,) and not losses.requires_grad for _, _, losses in calls)
    torch.testing.assert_close(calls[0][2], goal.loss(x))


class Stopped(Exception):
    pass


def test_what_on_step_raises_ends_the_run(pictures):
    x = pictures(2)
    goal = Near(x, torch.zeros(2) + 0.1)

    def on_step(step: int, steps: int, losses: Tensor) -> None:
        if step == 2:
            raise Stopped

    with pytest.raises(Stopped):
        pgd(goal, x, Linf(0.1), rule=Sign(), schedule=constant(0.2), steps=9, on_step=on_step)
    assert len(goal.seen) == 2


@pytest.mark.parametrize("started", [False, True])
def test_no_steps_deliver_the_start(started, pictures):
    x, calls = pictures(2), []
    budget = Linf(8 / 255)
    start = budget.start(x, [torch.Generator().manual_seed(index) for index in range(2)]) if started else None
    goal = Near(x, torch.full((2,), 0.1))
    out = pgd(
        goal,
        x,
        budget,
        rule=Sign(),
        schedule=constant(1),
        steps=0,
        start=start,
        on_step=lambda *told: calls.append(told),
    )
    assert torch.equal(out.images, budget.snap(start, x) if started else x)
    torch.testing.assert_close(out.loss_initial, goal.loss(x))
    torch.testing.assert_close(out.loss_final, goal.loss(out.images))
    assert out.gradient_evaluations.tolist() == [0, 0]
    assert not calls
    assert not goal.seen


def test_a_start_outside_the_budget_is_brought_inside(pictures):
    x = pictures(2)
    out = pgd(Near(x, torch.zeros(2)), x, Linf(8 / 255), rule=Sign(), schedule=constant(0), steps=0, start=1 - x)
    assert (levels(out.images, x, Linf(1)) <= 8).all()


class Waits(TorchDispatchMode):
    """Counts the times that a tensor's value is asked for: each would make a GPU wait."""

    READS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::masked_select")

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.name().split(".")[0] in self.READS
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("read", [bool, float, lambda value: value.item(), lambda value: [1, 2][value.int()]])
def test_waits_counts_what_would_wait(read):
    with Waits() as waits:
        read(torch.ones(()))
    assert waits.count == 1


@pytest.mark.parametrize(
    ("attack", "norm", "rule"), [(attack, norm, rule) for attack, norm, rule in TABLE if attack != "inverted norm"]
)
def test_nothing_in_the_loop_waits_for_the_device(attack, norm, rule, objective, pictures):
    x, (step, schedule) = pictures(2), RULES[rule]
    goal, counts = objective(attack, x), []
    goal.loss(x)  # the target's latents are computed once, before
    with Waits() as waits:
        evaluate = goal.value_and_grad

        def counted(x_adv: Tensor) -> tuple[Tensor, Tensor]:
            counts.append(waits.count)
            return evaluate(x_adv)

        goal.value_and_grad = counted
        pgd(goal, x, BUDGETS[norm], rule=step, schedule=schedule, steps=4, on_step=lambda *_: None)
    assert len(counts) == 4
    assert counts[0] == counts[-1]
