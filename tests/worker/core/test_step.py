"""Step rules: each image by itself, blind to the gradient's scale, never more than the budget; and schedules."""

from __future__ import annotations

import pytest
import torch

from worker.core.budget import L2, Linf
from worker.core.step import Adam, Momentum, Sign, constant, cosine, linear

RULES = {
    "sign": Sign(),
    "momentum": Momentum(decay=0.6),
    "consistent": Momentum(decay=0.5, consistency=0.5),
    "adam": Adam(),
}
BUDGETS = {"linf": Linf(8 / 255), "l2": L2(0.5), "per image": Linf(torch.tensor([8 / 255, 4 / 255]))}
SHAPE = (2, 3, 5, 6)


@pytest.fixture(params=sorted(RULES))
def rule(request):
    return RULES[request.param]


@pytest.fixture(params=sorted(BUDGETS))
def budget(request):
    return BUDGETS[request.param]


def gradients(count: int = 5) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(SHAPE, generator=generator) * 10**-index for index in range(count)]


def run(rule, budget, given):
    step = rule.begin()
    return [step(gradient.clone(), budget).clone() for gradient in given]


def only(budget, index):
    return (
        Linf(budget.epsilon[index : index + 1]) if isinstance(getattr(budget, "epsilon", 0), torch.Tensor) else budget
    )


def test_a_batch_is_each_image_alone(rule, budget):
    together = run(rule, budget, gradients())
    for index in range(SHAPE[0]):
        alone = run(rule, only(budget, index), [gradient[index : index + 1] for gradient in gradients()])
        for one, both in zip(alone, together, strict=True):
            torch.testing.assert_close(one[0], both[index], rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1e6])
def test_the_scale_of_the_gradient_does_not_matter(rule, budget, scale):
    scaled = run(rule, budget, [gradient * scale for gradient in gradients(3)])
    for one, other in zip(run(rule, budget, gradients(3)), scaled, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-7)


def test_an_image_with_no_gradient_neither_breaks_nor_disturbs_the_other(rule, budget):
    given = gradients()
    blank = [torch.stack([gradient[0], torch.zeros(SHAPE[1:])]) for gradient in given]
    for with_blank, plain in zip(run(rule, budget, blank), run(rule, budget, given), strict=True):
        assert with_blank.isfinite().all()
        assert not with_blank[1].any()
        torch.testing.assert_close(with_blank[0], plain[0])


def test_a_step_is_uphill_and_at_most_the_budgets_size(rule, budget):
    for index, (gradient, step) in enumerate(zip(gradients(), run(rule, budget, gradients()), strict=True)):
        full = budget.steepest(gradient)
        order = 2 if isinstance(budget, L2) else torch.inf
        size, most = (torch.linalg.vector_norm(value, order, dim=(1, 2, 3)) for value in (step, full))
        assert (size <= most * (1 + 1e-5)).all()
        assert (size > 0).all()
        if index == 0:
            assert ((gradient * step).sum((1, 2, 3)) > 0).all()


def test_begin_gives_fresh_state(rule, budget):
    used, given = rule.begin(), gradients()
    for gradient in given:
        used(gradient.clone(), budget)
    torch.testing.assert_close(rule.begin()(given[0].clone(), budget), run(rule, budget, given[:1])[0])


def test_the_gradient_is_not_written_to(rule, budget):
    step = rule.begin()
    for gradient in gradients(3):
        kept = gradient.clone()
        step(gradient, budget)
        assert torch.equal(gradient, kept)


def test_consistency_shortens_steps_where_the_gradient_flips():
    flips, stays = torch.ones(1, 3, 1, 2), torch.ones(1, 3, 1, 2)
    flips[..., 1] = -1  # column 0 keeps its sign, column 1 does not
    step = Momentum(decay=0.5, consistency=1).begin()
    for gradient in (stays, flips, stays, flips):
        last = step(gradient, Linf(1)).abs()
    assert torch.allclose(last[..., 0], torch.ones(1))
    assert (last[..., 1] < 0.5).all()


@pytest.mark.parametrize(
    ("schedule", "first", "middle", "last"),
    [(constant(0.3), 0.3, 0.3, 0.3), (linear(1.0, 0.2), 1.0, 0.6, 0.2), (cosine(1.4, 0.1), 1.4, 0.75, 0.1)],
)
def test_schedules(schedule, first, middle, last):
    assert [schedule(0), schedule(0.5), schedule(1)] == pytest.approx([first, middle, last])
    values = [schedule(index / 20) for index in range(21)]
    assert values == sorted(values, reverse=True)
