"""Objectives and what they compose to: values, gradients, and images that do not mix."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from worker.core.objective import Balanced, Expectation, Objective, Parallel, Repeated, Weighted


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
    "weighted sum": lambda: Parallel([Square(0.2), Texture(), Total()], [2, -0.5, 1e-3]),
    "weighted sum of one": lambda: Parallel([Texture()], [3]),
    "weighted sums of sums": lambda: Parallel([Parallel([Total(), Total()], [1, 2]), Square(1)], [0.5, 4]),
    "repeated": lambda: Repeated(Texture(), 3),
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


@pytest.mark.parametrize("weights", [(1, 1), (2, 0.5), (0, 1), (-1, 3)])
def test_parallel_with_weights_is_the_weighted_sum(weights):
    several = Square(0.1), Texture()
    together = Parallel(several, weights)
    torch.testing.assert_close(
        together.loss(X), sum(weight * each.loss(X) for each, weight in zip(several, weights, strict=True))
    )
    value, gradient = together.value_and_grad(X)
    torch.testing.assert_close(value, together.loss(X))
    slopes = [each.value_and_grad(X)[1] * weight for each, weight in zip(several, weights, strict=True)]
    torch.testing.assert_close(gradient, slopes[0] + slopes[1])


def test_equal_weights_that_add_up_to_one_are_none():
    several = [Square(0.1), Texture(), Square(1)]
    for one, other in zip(
        Parallel(several).value_and_grad(X), Parallel(several, [1 / 3] * 3).value_and_grad(X), strict=True
    ):
        assert torch.equal(one, other)


@pytest.mark.parametrize("weights", [[], [1], [1, 2, 3]])
def test_weights_that_are_not_one_for_each_are_refused(weights):
    with pytest.raises(ValueError, match=f"{len(weights)} weights for 2 objectives; give one each"):
        Parallel([Square(0), Texture()], weights)


class Graphs(Objective):
    """Counts the graphs that are alive: what each evaluation saves for its gradient, until that is taken."""

    def __init__(self) -> None:
        self.alive, self.most, self.count = 0, 0, 0

    def loss(self, x: Tensor) -> Tensor:
        self.count += 1
        return _Watched.apply(x, self).square().mean((1, 2, 3))


class _Watched(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, graphs):
        ctx.graphs = graphs
        if x.requires_grad:
            graphs.alive += 1
            graphs.most = max(graphs.most, graphs.alive)
        return x * 2

    @staticmethod
    def backward(ctx, gradient):
        ctx.graphs.alive -= 1
        return gradient * 2, None


@pytest.mark.parametrize(
    ("compose", "evaluations"),
    [
        (lambda one: Parallel([one, one]), 2),
        (lambda one: Parallel([one, one, one], [1, 1, 2]), 3),
        (lambda one: Balanced([Parallel([one, one], [1, 2]), Parallel([one, one], [1, 2])]), 4),
        (lambda one: Balanced([one, one, one]), 3),
        (lambda one: Repeated(one, 5), 5),
        (lambda one: Balanced([Repeated(one, 3), Parallel([one, one])]), 5),
    ],
)
def test_one_graph_is_alive_at_a_time(compose, evaluations):
    graphs = Graphs()
    compose(graphs).value_and_grad(X)
    assert (graphs.alive, graphs.most, graphs.count) == (0, 1, evaluations)


def test_balanced_has_the_plain_mean_as_its_loss():
    several = [Square(0.1), Texture(), Weighted(Square(1), 100)]
    torch.testing.assert_close(Balanced(several).loss(X), Parallel(several).loss(X))
    torch.testing.assert_close(Balanced(several).value_and_grad(X)[0], Parallel(several).loss(X))


@pytest.mark.parametrize("scale", [1e-6, 0.1, 30, 1e8])
def test_the_scale_of_one_objective_does_not_change_balanceds_direction(scale):
    plain = Balanced([Square(0.1), Texture()]).value_and_grad(X)[1]
    scaled = Balanced([Weighted(Square(0.1), scale), Texture()]).value_and_grad(X)[1]
    torch.testing.assert_close(scaled, plain)


def test_balanced_counts_each_images_gradients_alike():
    first, second = Square(0.1), Texture()
    gradient = Balanced([first, second]).value_and_grad(X)[1]
    units = [slope / slope.abs().mean((1, 2, 3), keepdim=True) for _, slope in map(_evaluated, (first, second))]
    torch.testing.assert_close(gradient, (units[0] + units[1]) / 2)
    alone = Balanced([first, second]).value_and_grad(X[1:2])[1]
    torch.testing.assert_close(gradient[1:2], alone)


def _evaluated(objective: Objective) -> tuple[Tensor, Tensor]:
    return objective.value_and_grad(X)


def test_balanced_with_an_objective_that_is_flat():
    class Flat(Objective):
        def loss(self, x: Tensor) -> Tensor:
            return x.mean((1, 2, 3)) * 0

    gradient = Balanced([Flat(), Texture()]).value_and_grad(X)[1]
    torch.testing.assert_close(gradient, Balanced([Texture()]).value_and_grad(X)[1] / 2)


def test_repeated_is_the_mean_of_what_is_drawn():
    class Drawn(Square):
        count = 0

        def loss(self, x: Tensor) -> Tensor:
            self.count += 1
            return super().loss(x) * self.count

    torch.testing.assert_close(Repeated(Drawn(0), 3).loss(X), Square(0).loss(X) * 2)
    value, gradient = Repeated(Drawn(0), 3).value_and_grad(X)
    torch.testing.assert_close(value, Square(0).loss(X) * 2)
    torch.testing.assert_close(gradient, Square(0).value_and_grad(X)[1] * 2)


@pytest.mark.parametrize(
    ("objective", "gradients"),
    [
        (Square(0), 1),
        (Repeated(Square(0), 7), 7),
        (Repeated(Repeated(Square(0), 2), 3), 6),
        (Weighted(Repeated(Square(0), 7), 2), 7),
        (Expectation(Repeated(Square(0), 7), [lambda x: x]), 7),
        (Expectation(Weighted(Repeated(Square(0), 7), 2), [lambda x: x]), 7),
        (Parallel([Square(0), Square(1)]), 1),  # of each model one
        (Parallel([Repeated(Square(0), 4), Square(1)]), 4),
        (Parallel([Square(0), Square(1), Square(2)], [1, 1, 2]), 1),  # of each loss one
        (Balanced([Square(0), Repeated(Square(0), 5)]), 5),
    ],
)
def test_gradients_are_counted(objective, gradients):
    assert objective.gradients == gradients


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
        (Balanced([Square(0), Square(1)]), True),
        (Balanced([Square(0), Expectation(Square(0), [lambda x: x])]), False),
        (Repeated(Square(0), 2), True),
        (Repeated(Expectation(Square(0), [lambda x: x]), 2), False),
    ],
)
def test_repeatable(objective, repeatable):
    assert objective.repeatable is repeatable


@pytest.mark.parametrize(
    "make",
    [lambda: Parallel([]), lambda: Balanced([]), lambda: Repeated(Square(0), 0), lambda: Expectation(Square(0), [])],
)
def test_nothing_to_compose_is_refused(make):
    with pytest.raises(ValueError, match="at least one"):
        make()
