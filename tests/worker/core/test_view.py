"""Views: the shapes a model sees, gradients that reach every pixel, and the GPU's filter against torch's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.core.jpeg import Recompressed
from worker.core.objective import chain
from worker.core.view import Bounded, Shrunk, ShrunkAndBack, WorkingSize, _filter, largest_size, pad, resize

quick = settings(max_examples=60, deadline=None, derandomize=True)


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("size", "multiple", "given", "reduced", "seen"),
    [
        (256, 8, (256, 256), (256, 256), (256, 256)),
        (256, 8, (512, 512), (256, 256), (256, 256)),
        (256, 8, (1024, 512), (360, 184), (360, 184)),  # the area of 256×256, the picture's own shape
        (256, 8, (512, 1024), (184, 360), (184, 360)),
        (256, 8, (100, 70), (100, 70), (104, 72)),  # smaller than the working size: pixels kept, padded
        (256, 8, (1, 1), (1, 1), (8, 8)),
        (256, 8, (20000, 10), (8192, 8), (8192, 8)),
        (256, 8, (20000, 3), (8192, 1), (8192, 8)),
        (256, 64, (1000, 1000), (256, 256), (256, 256)),
        (200, 64, (1000, 1000), (192, 192), (192, 192)),
        (256, 1, (300, 300), (256, 256), (256, 256)),
        (512, 8, (511, 513), (511, 513), (512, 520)),
        (None, 8, (3000, 17), (3000, 17), (3000, 24)),
        (None, 1, (33, 17), (33, 17), (33, 17)),
    ],
)
def test_shapes(size, multiple, given, reduced, seen):
    view = WorkingSize(size, multiple)
    assert view.shape(*given) == reduced
    assert view(rand(1, 3, *given)).shape == (1, 3, *seen)


@quick
@given(st.integers(64, 768), st.sampled_from([1, 4, 8, 64]), st.integers(1, 30000), st.integers(1, 30000))
def test_any_shape_fits_the_model(size, multiple, height, width):
    """Sides that the model takes, no more pixels than it works on (but for rounding), the picture's own shape."""
    shape = WorkingSize(size, multiple).shape(height, width)
    seen = [side + -side % multiple for side in shape]
    assert all(side >= 1 for side in shape)
    assert all(side < given + multiple for side, given in zip(shape, (height, width), strict=True))
    assert seen[0] * seen[1] <= (size + multiple) ** 2 * 2
    if min(shape) >= 8 * multiple:
        assert shape[0] / shape[1] == pytest.approx(height / width, rel=0.2)


@pytest.mark.parametrize("shape", [(256, 256), (100, 70), (9, 300), (1, 1)])
def test_a_view_keeps_what_it_does_not_reduce(shape):
    x = rand(1, 3, *shape)
    seen = WorkingSize(512, 8)(x)
    assert torch.equal(seen[..., : shape[0], : shape[1]], x)
    assert torch.equal(seen[..., -1, -1], x[..., -1, -1])


@pytest.mark.parametrize(
    ("size", "given", "box", "wanted"),
    [
        (None, (16, 24), (3, 7, 5, 9), (3, 7, 5, 9)),  # at the picture's own size: pixel by pixel
        (64, (20, 13), (3, 7, 5, 9), (3, 7, 5, 9)),
        (64, (20, 13), (0, 20, 0, 13), (0, 20, 0, 13)),  # all of the picture, none of its padding
        (32, (64, 64), (16, 32, 20, 40), (8, 16, 10, 20)),
        (32, (64, 64), (17, 31, 21, 39), (8, 16, 10, 20)),  # what is partly inside counts
        (32, (64, 64), (17, 18, 21, 22), (8, 9, 10, 11)),
        (32, (64, 64), (0, 0, 0, 0), (0, 0, 0, 0)),
        (32, (64, 64), (0, 64, 0, 64), (0, 32, 0, 32)),
    ],
)
def test_a_region_as_the_model_sees_it(size, given, box, wanted):
    view, mask, seen = WorkingSize(size, 8), torch.zeros(1, 1, *given), torch.zeros(1, 1, *given)
    mask[..., box[0] : box[1], box[2] : box[3]] = 1
    found = view.region(mask)
    assert found.shape[-2:] == view(rand(1, 3, *given)).shape[-2:]
    seen = torch.zeros_like(found)
    seen[..., wanted[0] : wanted[1], wanted[2] : wanted[3]] = 1
    assert found.unique().tolist() in ([0, 1], [0], [1])
    assert not (seen * (1 - found)).any()  # all of it is inside
    beyond = F.max_pool2d(seen, 5, 1, 2) if (size or 99) < given[0] else seen  # the filter reaches a little further
    assert not (found * (1 - beyond)).any()


@quick
@given(st.sampled_from([None, 16, 40, 64]), st.integers(1, 90), st.integers(1, 90), st.integers(0, 10**6))
def test_what_is_inside_is_hardly_seen(size, height, width, seed):
    """Where the model believes to see the picture, a region's pixel leaves the filter's faint tail at most."""
    view, mask = WorkingSize(size, 8), (rand(1, 1, height, width, seed=seed) > 0.97).float()
    x = rand(1, 3, height, width, seed=seed + 1)
    region = view.region(mask)
    repainted = torch.where(mask > 0, 1 - x, x)
    down, right = view.shape(height, width)
    seen = (view(x) - view(repainted)) * (1 - region)
    assert seen[..., :down, :right].abs().max() < (0.25 if (down, right) != (height, width) else 1e-6)


def test_each_mask_of_a_batch_is_its_own_region():
    masks = (rand(3, 1, 50, 70) > 0.9).float()
    view = WorkingSize(32, 8)
    assert torch.equal(view.region(masks), torch.cat([view.region(mask) for mask in masks.split(1)]))


RESIZES = [((40, 56), (16, 24)), ((40, 56), (80, 60)), ((65, 33), (8, 32)), ((300, 20), (37, 3)), ((5, 5), (1, 1))]


@pytest.mark.parametrize(("given", "wanted"), RESIZES)
def test_the_gradient_reaches_every_pixel(given, wanted):
    x = rand(2, 3, *given).requires_grad_()
    (gradient,) = torch.autograd.grad((resize(x, wanted) * rand(2, 3, *wanted, seed=1)).sum(), x)
    assert gradient.isfinite().all()
    assert gradient.ne(0).all()


@pytest.mark.parametrize(("given", "wanted"), RESIZES)
def test_the_filter_as_matrices_is_torchs_own_filter(given, wanted):
    x, weight = rand(2, 3, *given).requires_grad_(), rand(2, 3, *wanted, seed=1)
    own = _filter(given[0], wanted[0]) @ x @ _filter(given[1], wanted[1]).T
    torchs = F.interpolate(x, wanted, mode="bicubic", antialias=True, align_corners=False)
    torch.testing.assert_close(own, torchs, atol=1e-5, rtol=0)
    gradients = [torch.autograd.grad((made * weight).sum(), x)[0] for made in (own, torchs)]
    torch.testing.assert_close(*gradients, atol=1e-5, rtol=0)


def test_resizing_averages_and_does_not_alias():
    stripes = (torch.arange(64) % 2).float().expand(1, 3, 64, 64)
    assert (resize(stripes, (16, 16))[..., 2:-2] - 0.5).abs().max() < 1e-3
    flat = torch.full((1, 3, 37, 53), 0.7)
    torch.testing.assert_close(resize(flat, (11, 80)), torch.full((1, 3, 11, 80), 0.7))


@pytest.mark.parametrize(("down", "right"), [(0, 0), (3, 0), (0, 5), (7, 9)])
def test_pad_repeats_the_last_row_and_column(down, right):
    x = rand(2, 3, 4, 5).requires_grad_()
    padded = pad(x, down, right)
    assert torch.equal(padded, F.pad(x, (0, right, 0, down), mode="replicate"))
    (gradient,) = torch.autograd.grad(padded.sum(), x)
    assert gradient[0, 0, -1, -1] == (down + 1) * (right + 1)


@pytest.mark.parametrize(
    ("area", "given", "seen"),
    [
        (None, (500, 300), (500, 300)),
        (10_000, (100, 100), (100, 100)),
        (10_000, (200, 200), (100, 100)),
        (10_000, (400, 100), (200, 50)),
        (10_000, (30_000, 1), (17321, 1)),
        (1, (50, 50), (1, 1)),
    ],
)
def test_bounded_shapes(area, given, seen):
    assert Bounded(area)(rand(1, 3, *given)).shape == (1, 3, *seen)


@pytest.mark.parametrize(("given", "seen"), [((40, 60), (20, 30)), ((41, 7), (20, 4)), ((1, 1), (1, 1))])
def test_shrunk_shapes(given, seen):
    assert Shrunk(0.5)(rand(1, 3, *given)).shape == (1, 3, *seen)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


RANDOM = {
    "shrunk and back": ShrunkAndBack,
    "recompressed": Recompressed,
    "both": lambda drawn: chain(Recompressed(drawn), ShrunkAndBack(drawn)),
}


@pytest.mark.parametrize("name", RANDOM)
def test_a_random_view_is_its_generators(name):
    x = rand(1, 3, 40, 60)

    def draw(seed: int) -> list[torch.Tensor]:
        view = RANDOM[name](generator(seed))
        return [view(x) for _ in range(4)]

    first, again, other = draw(1), draw(1), draw(2)
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    assert not all(torch.equal(one, two) for one, two in zip(first, other, strict=True))
    assert not torch.equal(first[0], first[1])  # drawn anew at each call


@pytest.mark.parametrize("shape", [(40, 60), (33, 47), (1, 1), (3, 50)])
@pytest.mark.parametrize("name", [*RANDOM, "bounded", "shrunk"])
def test_views_give_pictures_and_pass_gradients(name, shape):
    view = {"bounded": Bounded(400), "shrunk": Shrunk()}.get(name) or RANDOM[name](generator(0))
    x = (rand(1, 3, *shape) * 0.6 + 0.2).requires_grad_()
    seen = view(x)
    (gradient,) = torch.autograd.grad((seen * rand(*seen.shape, seed=1)).sum(), x)
    if name in RANDOM:
        assert seen.shape == x.shape
    assert seen.min() >= 0
    assert seen.max() <= 1
    assert gradient.isfinite().all()
    assert gradient.ne(0).float().mean() > 0.8  # clamped pixels have none


def test_a_chain_is_one_view_after_the_other():
    x = rand(1, 3, 8, 8)
    assert torch.equal(chain(lambda seen: seen * 2, lambda seen: seen + 1)(x), x * 2 + 1)
    assert chain()(x) is x


@pytest.mark.parametrize(
    ("sizes", "largest"), [([64], 64), ([64, 256, 96], 256), ([None], None), ([64, None], None), ([None, 64], None)]
)
def test_the_largest_size_is_none_where_one_sees_every_pixel(sizes, largest):
    assert largest_size([WorkingSize(size) for size in sizes]) == largest


def test_what_has_no_size_sees_every_pixel():
    assert largest_size([WorkingSize(64), object()]) is None
