"""Budgets: every operation stays inside, on every norm, with one size or one per image, with a region or without."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from worker.core.budget import L2, Linf

quick = settings(max_examples=20, deadline=None, derandomize=True)
SHAPE = (2, 3, 6, 7)
EPSILONS = st.one_of(st.sampled_from([1.0, 4.0, 7.65, 8.0, 16.0, 255.0]), st.floats(0.5, 64))
seeds = st.integers(0, 2**31)

REGIONS = {"everywhere": None, "left": (torch.arange(7) < 3).float().expand(1, 1, 6, 7)}
SIZES = {"one": lambda size: size, "per image": lambda size: torch.tensor([size, size / 2])}
regions = st.sampled_from(sorted(REGIONS))
sizes = st.sampled_from(sorted(SIZES))
norms = st.sampled_from([Linf, L2])


def make(norm: type[Linf] | type[L2], epsilon: float, size: str, region: str) -> Linf | L2:
    """A budget of `epsilon`/255; for L2 as large as an L-infinity ball's root mean square."""
    scale = 1 if norm is Linf else (3 * 6 * 7) ** 0.5 / 2
    return norm(SIZES[size](epsilon / 255 * scale), REGIONS[region])


def bounds(budget: Linf | L2) -> Tensor:
    size = budget.epsilon if isinstance(budget, Linf) else budget.radius
    return torch.as_tensor(size, dtype=torch.float64).expand(SHAPE[0])


def distance(budget: Linf | L2, a: Tensor, b: Tensor) -> Tensor:
    order = torch.inf if isinstance(budget, Linf) else 2
    return torch.linalg.vector_norm(a.double() - b.double(), order, dim=(1, 2, 3))


def outside(region: str) -> Tensor:
    return torch.zeros(SHAPE, dtype=torch.bool) if REGIONS[region] is None else (REGIONS[region] == 0).expand(SHAPE)


def rand(seed: int) -> Tensor:
    return torch.rand(SHAPE, generator=torch.Generator().manual_seed(seed))


def on_grid(x: Tensor) -> Tensor:
    return (x * 255).round() / 255


@quick
@given(norms, EPSILONS, sizes, regions, seeds, st.floats(0, 2))
def test_project_is_idempotent_and_inside(norm, epsilon, size, region, seed, reach):
    budget, x = make(norm, epsilon, size, region), rand(seed)
    projected = budget.project(x + reach * (rand(seed + 1) * 2 - 1), x)
    assert (distance(budget, projected, x) <= bounds(budget) + 1e-6).all()
    assert projected.min() >= 0
    assert projected.max() <= 1
    assert torch.equal(projected[outside(region)], x[outside(region)])
    assert torch.allclose(budget.project(projected, x), projected, atol=1e-6)
    assert torch.allclose(budget.project(x, x), x, atol=0)


@quick
@given(norms, EPSILONS, sizes, regions, seeds)
def test_project_leaves_what_is_inside_alone(norm, epsilon, size, region, seed):
    budget, x = make(norm, epsilon, size, region), rand(seed) * 0.5 + 0.25
    step = budget.steepest(rand(seed + 1) - 0.5) * 0.5
    inside = (x + step).clamp(0, 1)
    assert torch.allclose(budget.project(inside, x), inside, atol=1e-6)


@quick
@given(norms, EPSILONS, sizes, regions, seeds)
def test_steepest_has_full_size_and_maximises_the_linear_function(norm, epsilon, size, region, seed):
    budget, gradient = make(norm, epsilon, size, region), rand(seed) - 0.5
    step = budget.steepest(gradient)
    assert torch.allclose(distance(budget, step, torch.zeros(SHAPE)), bounds(budget), rtol=1e-5)
    assert not step[outside(region)].any()
    dual = distance(budget, step, torch.zeros(SHAPE)) * torch.linalg.vector_norm(
        gradient.masked_fill(outside(region), 0).double(), 1 if norm is Linf else 2, dim=(1, 2, 3)
    )
    assert torch.allclose((gradient * step).double().sum((1, 2, 3)), dual, rtol=1e-4)


@quick
@given(norms, EPSILONS, sizes, regions, seeds)
def test_start_is_inside_and_its_own_seeds_alone(norm, epsilon, size, region, seed):
    def generator(value: int) -> torch.Generator:
        return torch.Generator().manual_seed(value)

    budget, x = make(norm, epsilon, size, region), rand(seed)
    both = budget.start(x, [generator(seed), generator(7)])
    assert (distance(budget, both, x) <= bounds(budget) + 1e-6).all()
    assert both.min() >= 0
    assert both.max() <= 1
    assert torch.equal(both[outside(region)], x[outside(region)])
    assert not torch.equal(both, x)
    second = norm(float(bounds(budget)[1]), REGIONS[region]).start(x[1:], [generator(7)])
    assert torch.allclose(second, both[1:], atol=1e-6)
    assert not torch.allclose(budget.start(x, [generator(seed), generator(8)])[1], both[1], atol=1e-6)


def test_start_wants_a_generator_for_each_image():
    with pytest.raises(ValueError, match="1 generators for 2 images"):
        Linf(0.1).start(torch.zeros(SHAPE), [torch.Generator()])


@quick
@given(norms, EPSILONS, sizes, regions, seeds, st.floats(0, 0.5))
def test_snap_of_a_picture_on_the_grid(norm, epsilon, size, region, seed, reach):
    budget, x = make(norm, epsilon, size, region), on_grid(rand(seed))
    snapped = budget.snap(x + reach * (rand(seed + 1) * 2 - 1), x)
    assert torch.equal(on_grid(snapped), snapped)
    assert snapped.min() >= 0
    assert snapped.max() <= 1
    assert torch.equal(snapped[outside(region)], x[outside(region)])
    levels = distance(budget, (snapped * 255).round(), (x * 255).round())
    assert (levels <= bounds(budget) * 255 * (1 + 1e-6)).all()
    assert torch.equal(budget.snap(x, x), x)


@quick
@given(norms, EPSILONS, sizes, seeds, st.floats(0, 0.5))
def test_snap_of_a_picture_off_the_grid(norm, epsilon, size, seed, reach):
    """Where not even the nearest grid point is within budget, that one is taken."""
    budget, x = make(norm, epsilon, size, "everywhere"), rand(seed)
    snapped = budget.snap(x + reach * (rand(seed + 1) * 2 - 1), x)
    assert torch.equal(on_grid(snapped), snapped)
    reachable = torch.maximum(bounds(budget), distance(budget, on_grid(x), x))
    assert (distance(budget, snapped, x) <= reachable + 1e-5).all()


@quick
@given(norms, EPSILONS, seeds)
def test_snap_off_the_grid_lands_on_it_outside_the_region_too(norm, epsilon, seed):
    budget, x = make(norm, epsilon, "one", "left"), rand(seed)
    snapped = budget.snap(x, x)
    assert torch.equal(on_grid(snapped), snapped)
    assert torch.equal(snapped[outside("left")], on_grid(x)[outside("left")])


@quick
@given(EPSILONS, seeds)
def test_snap_takes_the_nearest_grid_point_where_the_budget_allows(epsilon, seed):
    budget, x = Linf(epsilon / 255), on_grid(rand(seed))
    inside = budget.project(x + (rand(seed + 1) - 0.5) * epsilon / 255, x)
    assert (budget.snap(inside, x) - inside).abs().max() <= (0.5 + 1e-3) / 255


@quick
@given(st.floats(20, 400), seeds)
def test_snap_in_l2_spends_most_of_the_radius(radius, seed):
    """Rounding may cost some of the ball, never most of it."""
    budget, x = L2(radius / 255), on_grid(rand(seed)) * 0.5 + 64 / 255
    x = on_grid(x)
    far = budget.project(x + budget.steepest(rand(seed + 1) - 0.5), x)
    spent = distance(budget, budget.snap(far, x), x) * 255
    assert (spent > radius * 0.75).all()


LEVELS = (torch.arange(256).float() / 255).view(1, 1, 16, 16).expand(1, 3, 16, 16)


@pytest.mark.parametrize("as_tensor", [False, True])
@pytest.mark.parametrize("direction", [-1, 1])
@pytest.mark.parametrize(
    ("epsilon", "levels"),
    [(k, k) for k in (*range(1, 34), 63, 64, 127, 128, 200, 254, 255)]
    + [(7.65, 7), (0.5, 0), (0.99, 0), (1.5, 1), (7.99, 7), (7.9995, 7), (8.01, 8), (8.9995, 8)],
)
def test_epsilon_allows_so_many_levels_and_no_more(epsilon, levels, direction, as_tensor):
    """Float32 cannot hold k/255; all 256 levels of an original, in both directions, get exactly k anyway."""
    budget = Linf(torch.tensor([epsilon / 255]) if as_tensor else epsilon / 255)
    snapped = budget.snap(budget.project(LEVELS + direction, LEVELS), LEVELS)
    moved = ((snapped * 255).round() - (LEVELS * 255).round()).abs()
    room = (LEVELS * 255).round() if direction < 0 else 255 - (LEVELS * 255).round()
    assert torch.equal(moved, room.clamp(max=levels))
