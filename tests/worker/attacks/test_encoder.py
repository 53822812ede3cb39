"""The encoder attack: every target, every shape, one encoder or several, with and without a sensitive region."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from worker.attacks.encoder import EncoderAttack, LatentDistance
from worker.core.budget import Linf
from worker.core.objective import Parallel
from worker.core.view import Bounded, Shrunk, resize
from worker.immunization import immunize
from worker.models.abilities import Encodes

OTHER = torch.rand((1, 3, 11, 45), generator=torch.Generator().manual_seed(9))
TARGETS = {"gray": "gray", "zero": "zero", "farthest": "farthest", "inverted": "inverted", "picture": OTHER}
SHAPES = [(24, 32), (1, 1), (3, 50), (70, 33), (8, 8)]
SIZES = [None, 32]  # the encoder's working size: the picture's own, or smaller than some of SHAPES


@pytest.fixture
def models(encoder):
    return {"one": encoder(), "several": [encoder(4, 8, None, 0), encoder(6, 4, 32, 1), encoder(3, 16, 24, 2)]}


@pytest.mark.parametrize("which", ["one", "several"])
@pytest.mark.parametrize("distance", ["squared", "norm"])
@pytest.mark.parametrize("target", TARGETS)
def test_the_gradient_reaches_every_pixel_of_every_target(target, distance, which, models, pictures):
    x = pictures(2, 24, 32)
    objective = EncoderAttack(models[which], TARGETS[target], distance).objective(x)
    loss, gradient = objective.value_and_grad(x)
    assert loss.shape == (2,)
    assert (loss > 0).all()
    assert gradient.isfinite().all()
    assert gradient.ne(0).all()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("target", TARGETS)
def test_any_shape(target, shape, size, encoder, pictures):
    x = pictures(2, *shape)
    attack = EncoderAttack(encoder(size=size), TARGETS[target])
    out = immunize(x, attack=attack, budget=Linf(8 / 255), steps=6, seed=1)
    assert out.images.shape == x.shape
    assert ((out.images - x).abs() * 255).round().max() <= 8
    assert (out.loss_final < out.loss_initial).all()


@pytest.mark.parametrize("target", TARGETS)
def test_an_images_loss_depends_on_that_image_alone(target, encoder, pictures):
    x = pictures(3)
    leaf = x.clone().requires_grad_()
    together = EncoderAttack(encoder(), TARGETS[target]).objective(x).loss(leaf)
    for index, loss in enumerate(together):
        alone = EncoderAttack(encoder(), TARGETS[target]).objective(x[index : index + 1]).loss(x[index : index + 1])
        torch.testing.assert_close(loss.detach(), alone[0])
        (gradient,) = torch.autograd.grad(loss, leaf, retain_graph=True)
        assert [bool(image.any()) for image in gradient] == [other == index for other in range(3)]


GOALS = {
    "gray": lambda x: torch.full_like(x, 0.5),
    "inverted": lambda x: 1 - x,
    "picture": lambda x: resize(OTHER, x.shape[-2:]).clamp(0, 1),
}


@pytest.mark.parametrize("target", GOALS)
def test_the_loss_is_the_distance_to_the_targets_latents(target, encoder, pictures):
    x, model = pictures(2), encoder()
    wanted = model.encode(GOALS[target](x))
    mean_square = (model.encode(x) - wanted).square().mean((1, 2, 3))
    torch.testing.assert_close(EncoderAttack(model, TARGETS[target]).objective(x).loss(x), mean_square)
    torch.testing.assert_close(EncoderAttack(model, TARGETS[target], "norm").objective(x).loss(x), mean_square.sqrt())


def test_the_zero_target_is_the_zero_latent(encoder, pictures):
    x, model = pictures(2), encoder()
    mean_square = model.encode(x).square().mean((1, 2, 3))
    torch.testing.assert_close(EncoderAttack(model, "zero").objective(x).loss(x), mean_square)


@pytest.mark.parametrize("distance", ["squared", "norm"])
def test_at_the_target_the_loss_is_zero_and_the_gradient_finite(distance):
    black = torch.zeros(2, 3, 16, 16)
    loss, gradient = EncoderAttack(Bare(), "zero", distance).objective(black).value_and_grad(black)
    assert loss.max() < 1e-5
    assert gradient.isfinite().all()


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("which", ["one", "several"])
@pytest.mark.parametrize("shape", [(24, 32), (70, 33)])
def test_what_the_mask_covers_is_neither_seen_nor_touched(shape, which, shared, models, pictures):
    x = pictures(2, *shape)
    mask = torch.zeros(2, 1, *shape)
    mask[:, :, 4:15, 5:20] = 1
    if not shared:
        mask[1] = mask[1].flip(-1)
    mask = mask[:1] if shared else mask
    inside = mask.bool().expand_as(x)
    attack = EncoderAttack(models[which], "gray")
    objective = attack.objective(x, mask)
    loss, gradient = objective.value_and_grad(x)
    assert not gradient[inside].any()
    assert gradient[~inside].ne(0).all()
    repainted = torch.where(inside, 1 - x, x)
    assert torch.equal(objective.loss(repainted), loss)

    out = immunize(x, attack=attack, budget=Linf(8 / 255), steps=4, mask=mask)
    assert torch.equal(out.images[inside], x[inside])
    assert (out.images[~inside] != x[~inside]).any()
    assert (out.loss_final < out.loss_initial).all()
    torch.testing.assert_close(out.loss_final, objective.loss(out.images))


def test_several_encoders_are_their_mean(models, pictures):
    x = pictures(2)
    together = EncoderAttack(models["several"], "inverted").objective(x)
    assert isinstance(together, Parallel)
    alone = [EncoderAttack(model, "inverted").objective(x).loss(x) for model in models["several"]]
    torch.testing.assert_close(together.loss(x), torch.stack(alone).mean(0))


@pytest.mark.parametrize("view", [Shrunk(0.5), Shrunk(0.3), Bounded(600), Shrunk(0.1)], ids=str)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("target", TARGETS)
def test_views_of_any_size_are_compared_with_the_target_at_that_size(target, masked, view, encoder, pictures):
    """As under a pipeline's views: the picture comes back smaller, and the target follows."""
    x, mask = pictures(2, 40, 48), torch.zeros(1, 1, 40, 48)
    mask[..., :20, :20] = 1
    objective = EncoderAttack(encoder(), TARGETS[target]).objective(x, mask if masked else None)
    leaf = x.clone().requires_grad_()
    loss = objective.loss(view(leaf))
    (gradient,) = torch.autograd.grad(loss.sum(), leaf)
    assert loss.isfinite().all()
    assert gradient.isfinite().all()
    assert gradient.any()


def test_the_targets_latents_are_computed_once_a_size(encoder, pictures):
    x, model, calls = pictures(2), encoder(), []
    encode = model.encode
    model.encode = lambda seen: calls.append(len(seen)) or encode(seen)
    objective = EncoderAttack(model, "gray").objective(x)
    for _ in range(3):
        objective.value_and_grad(x)
    assert sorted(calls) == [1, 2, 2, 2]


class Bare:
    """An encoder with nothing but `encode`."""

    def encode(self, x: Tensor) -> Tensor:
        assert x.shape[-1] % 8 == 0
        return torch.nn.functional.avg_pool2d(x, 8)


def test_any_object_with_encode_will_do(pictures):
    assert isinstance(Bare(), Encodes)
    x = pictures(1, 10, 13)
    out = immunize(x, attack=EncoderAttack(Bare()), steps=3)
    assert (out.loss_final < out.loss_initial).all()


@pytest.mark.parametrize(
    ("sizes", "largest"), [([64], 64), ([64, 256], 256), ([None], None), ([64, None], None), ([None, 64], None)]
)
def test_the_attacks_working_size_is_its_largest_models(sizes, largest, encoder):
    assert EncoderAttack([encoder(size=size) for size in sizes]).size == largest


@pytest.mark.parametrize("size", [None, 32])
def test_the_model_is_shown_its_working_size(size, encoder, pictures):
    model, seen = encoder(size=size), []
    encode = model.encode
    model.encode = lambda x: seen.append(tuple(x.shape[-2:])) or encode(x)
    x = pictures(1, 100, 60)
    LatentDistance(model, "gray", x).loss(x)
    assert set(seen) == {(104, 64) if size is None else (40, 24)}
