"""Objectives and what they compose to: values, gradients, and images that do not mix."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from worker.core.objective import Expectation, Objective, Parallel, Weighted


class Square(Objective):
    """Mean square distance to a constant."""

    def __init__(self, wanted: float) -> None:
        self.wanted = wanted

    def loss(self, x: Tensor) -> Tensor:
        return (x - self.wanted).square().mean((1, 2, 3))


class Total(Objective):
    """The sum of the pixels: its gradient comes out of autograd as one number seen everywhere."""

    def loss(self, x: Tensor) -> Tensor:
        return x.sum((1, 2, 3))


class Texture(Objective):
    def loss(self, x: Tensor) -> Tensor:
        return (x.diff(dim=-1) * 3).sin().mean((1, 2, 3))


X = torch.rand(3, 3, 5, 6, generator=torch.Generator().manual_seed(0))
TABLE = {
    "plain": lambda: Square(0.2),
    "weighted": lambda: Weighted(Texture(), -2.5),
    "parallel": lambda: Parallel([Square(0.2), Texture(), Weighted(Square(1), 3)]),
    "parallel of sums": lambda: Parallel([Total(), Total()]),
    "parallel of one": lambda: Parallel([Texture()]),
    "expectation": lambda: Expectation(Texture(), [lambda x: x.flip(-1)]),
    "nested": lambda: Weighted(Parallel([Expectation(Square(1), [lambda x: x * 0.5]), Texture()]), 2),
}


@pytest.fixture(params=sorted(TABLE))
def objective(request):
    return TABLE[request.param]()


def test_value_and_grad_is_autograds(objective):
    leaf = X.clone().requires_grad_()
    loss = objective.loss(leaf)
    (wanted,) = torch.autograd.grad(loss.sum(), leaf)
    with torch.no_grad():  # as in the loop
        value, gradient = objective.value_and_grad(X)
    torch.testing.assert_close(value, loss.detach())
    torch.testing.assert_close(gradient, wanted)
    assert value.shape == (3,)
    assert not value.requires_grad
    assert not gradient.requires_grad


def test_value_and_grad_leaves_the_pictures_as_they_were(objective):
    x = X.clone()
    objective.value_and_grad(x)
    assert torch.equal(x, X)
    assert not x.requires_grad


def test_an_images_loss_depends_on_that_image_alone(objective):
    leaf = X.clone().requires_grad_()
    for index, loss in enumerate(objective.loss(leaf)):
        (gradient,) = torch.autograd.grad(loss, leaf, retain_graph=True)
        others = [other for other in range(3) if other != index]
        assert not gradient[others].any()
        assert gradient[index].any()


def test_parallel_is_the_mean():
    first, second = Square(0.1), Texture()
    together = Parallel([first, second])
    torch.testing.assert_close(together.loss(X), (first.loss(X) + second.loss(X)) / 2)
    torch.testing.assert_close(
        together.value_and_grad(X)[1], (first.value_and_grad(X)[1] + second.value_and_grad(X)[1]) / 2
    )


def test_parallel_keeps_one_graph_alive_at_a_time():
    alive = 0

    class Watched(Square):
        def value_and_grad(self, x: Tensor) -> tuple[Tensor, Tensor]:
            nonlocal alive
            alive += 1
            assert alive == 1
            value = super().value_and_grad(x)
            alive -= 1
            return value

    Parallel([Watched(0), Watched(1)]).value_and_grad(X)


def test_expectation_takes_its_views_in_turn():
    seen = []
    views = [lambda x, name=name: seen.append(name) or x for name in "abc"]
    objective = Expectation(Square(0), views)
    for _ in range(4):
        objective.value_and_grad(X)
    objective.loss(X)
    assert "".join(seen) == "abcab"


@pytest.mark.parametrize(
    ("objective", "repeatable"),
    [
        (Square(0), True),
        (Weighted(Square(0), 2), True),
        (Parallel([Square(0), Square(1)]), True),
        (Expectation(Square(0), [lambda x: x]), False),
        (Weighted(Expectation(Square(0), [lambda x: x]), 2), False),
        (Parallel([Square(0), Expectation(Square(0), [lambda x: x])]), False),
    ],
)
def test_repeatable(objective, repeatable):
    assert objective.repeatable is repeatable


@pytest.mark.parametrize("make", [lambda: Parallel([]), lambda: Expectation(Square(0), [])])
def test_nothing_to_compose_is_refused(make):
    with pytest.raises(ValueError, match="at least one"):
        make()
