"""The Python face, as the contract shows it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from service.contracts.errors import BadField
from worker import L2, EncoderAttack, Linf, immunize


class Wrapped(nn.Module):
    """A researcher's own network and the three lines that it takes."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def encode(self, x):
        return self.network(x * 2 - 1)


@pytest.fixture
def attack():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Conv2d(3, 8, 8, stride=8), nn.Tanh(), nn.Conv2d(8, 4, 1))
    return EncoderAttack(Wrapped(network), target="gray")


@pytest.mark.parametrize("budget", [None, Linf(8 / 255), Linf(torch.tensor([8 / 255, 2 / 255])), L2(0.7)])
def test_as_the_contract_shows_it(budget, attack, pictures):
    x, calls = pictures(2), []
    out = immunize(
        x, attack=attack, budget=budget, steps=20, seed=0, mask=None, on_step=lambda *told: calls.append(told)
    )
    assert out.images.shape == x.shape
    assert torch.equal((out.images * 255).round() / 255, out.images)
    assert (out.loss_final < out.loss_initial).all()
    assert out.loss_initial.shape == out.loss_final.shape == out.gradient_evaluations.shape == (2,)
    assert out.gradient_evaluations.tolist() == [20, 20]
    assert [step for step, _, _ in calls] == list(range(1, 21))
    torch.testing.assert_close(out.loss_final, attack.objective(x).loss(out.images).detach())
    moved = ((out.images - x) * 255).round()
    if isinstance(budget, L2):
        assert (torch.linalg.vector_norm(moved, dim=(1, 2, 3)) <= 0.7 * 255).all()
    else:
        most = [8, 2] if budget is not None and isinstance(budget.epsilon, torch.Tensor) else [8, 8]
        assert moved.abs().amax((1, 2, 3)).tolist() == most


def test_the_weights_get_no_gradient_and_the_pictures_are_left_alone(attack, pictures):
    x = pictures(1)
    before = x.clone()
    immunize(x, attack=attack, steps=2)
    assert torch.equal(x, before)
    assert all(parameter.grad is None for model in attack._models for parameter in model.parameters())


def test_a_seed_is_for_all_or_one_for_each(attack, pictures):
    x = pictures(2)
    several = immunize(x, attack=attack, steps=3, seed=[4, 5]).images
    for index, seed in enumerate([4, 5]):
        alone = immunize(x[index : index + 1], attack=attack, steps=3, seed=seed).images
        assert (alone[0] != several[index]).float().mean() < 0.01
    same = immunize(x, attack=attack, steps=3, seed=4).images
    assert torch.equal(same, immunize(x, attack=attack, steps=3, seed=[4, 4]).images)
    assert not torch.equal(same, several)


@pytest.mark.parametrize("count", [1, 2])
def test_a_mask_holds_the_perturbation_outside(count, attack, pictures):
    x, mask = pictures(2), torch.zeros(count, 1, 24, 32)
    mask[..., 5:12, 3:20] = 1
    for budget in (Linf(8 / 255), L2(0.7), Linf(torch.tensor([8 / 255, 4 / 255]))):
        out = immunize(x, attack=attack, budget=budget, steps=3, mask=mask)
        assert torch.equal(out.images[..., 5:12, 3:20], x[..., 5:12, 3:20])
        assert (out.images != x).any()


def test_a_mask_and_a_budgets_own_region_both_hold(attack, pictures):
    x, mask, region = pictures(2), torch.zeros(1, 1, 24, 32), torch.zeros(1, 1, 24, 32)
    mask[..., 5:12, 3:20] = 1
    region[..., :16] = 1
    out = immunize(x, attack=attack, budget=Linf(8 / 255, region), steps=3, mask=mask)
    allowed = (region * (1 - mask)).bool().expand_as(x)
    assert torch.equal(out.images[~allowed], x[~allowed])
    assert (out.images[allowed] != x[allowed]).any()


@pytest.mark.parametrize(
    "images",
    [
        torch.zeros(1, 3, 8, 8, dtype=torch.uint8),
        torch.zeros(1, 3, 8, 8, dtype=torch.int64),
        torch.zeros(3, 8, 8),
        torch.zeros(1, 4, 8, 8),
        torch.zeros(1, 1, 8, 8),
        torch.zeros(1, 8, 8, 3),
        torch.zeros(1, 3, 8, 8, 1),
    ],
    ids=lambda images: f"{images.dtype} {tuple(images.shape)}",
)
def test_what_are_no_images_is_refused(images, attack):
    with pytest.raises(BadField, match=r"images: expected floats \(N,3,H,W\)"):
        immunize(images, attack=attack)


@pytest.mark.parametrize("shape", [(1, 1, 8, 9), (1, 3, 24, 32), (3, 1, 24, 32), (1, 1, 12, 16), (24, 32), (1, 24, 32)])
def test_what_is_no_mask_is_refused(shape, attack, pictures):
    with pytest.raises(BadField, match="mask: expected"):
        immunize(pictures(2), attack=attack, mask=torch.zeros(shape))
