"""One edit at the picture's own size, by a model that works at another."""

from __future__ import annotations

import pytest
import torch

from service.contracts.errors import BadField
from worker.core.view import WorkingSize
from worker.editing import edit
from worker.models.abilities import DEFAULT_OPTIONS, EditOptions


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize(
    ("size", "multiple", "shape"),
    [
        (None, 8, (24, 32)),
        (None, 8, (1, 1)),
        (None, 8, (23, 41)),
        (32, 8, (24, 32)),
        (32, 8, (96, 64)),
        (32, 8, (97, 63)),
        (32, 16, (33, 200)),
        (64, 4, (7, 500)),
    ],
)
def test_any_shape_keeps_its_size(size, multiple, shape, masked, editor, pictures):
    x, model = pictures(2, *shape), editor(4, multiple, size)
    mask = (torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(1)) > 0.8).float() if masked else None
    made = edit(x, mask, "a cat", model, seed=4)
    assert made.shape == x.shape
    assert made.min() >= 0
    assert made.max() <= 1
    assert not made.requires_grad
    ((name, seen, region, prompts, seeds, options),) = model.told
    view = WorkingSize(size, multiple)
    assert torch.equal(seen, view(x).clamp(0, 1))
    assert (name, prompts, seeds, options) == ("edit", ["a cat"] * 2, [4, 4], DEFAULT_OPTIONS)
    assert region is None if mask is None else torch.equal(region, view.region(mask))


class Paints:
    """Copies the picture, and paints the region white."""

    def __init__(self, size: int | None) -> None:
        self.size = size

    def edit(self, x, mask, *_):
        return x if mask is None else x * (1 - mask) + mask


@pytest.mark.parametrize("shape", [(24, 32), (23, 41), (64, 64), (200, 90), (61, 257)])
@pytest.mark.parametrize("size", [None, 32, 64])
def test_the_edit_lies_where_the_mask_does(size, shape, pictures):
    height, width = shape
    x, mask = torch.full((1, 3, *shape), 0.2), torch.zeros(1, 1, *shape)
    rows, columns = slice(height // 4, height // 2), slice(width // 3, 2 * width // 3)
    mask[..., rows, columns] = 1
    made = edit(x, mask, "", Paints(size))
    down, right = WorkingSize(size, 8).shape(*shape)
    if (down, right) == shape:
        assert torch.equal(made, torch.where(mask > 0, torch.ones(()), x))
        return
    assert (made[..., rows, columns] > 0.8).all()  # all of it is painted
    reach = 3 * max(height / down, width / right)  # and little around it
    far = torch.ones_like(mask)
    far[
        ...,
        max(0, int(rows.start - reach)) : int(rows.stop + reach),
        max(0, int(columns.start - reach)) : int(columns.stop + reach),
    ] = 0
    assert (made - x).mul(far).abs().max() < 0.05


def test_a_copy_at_its_own_size_is_the_picture(pictures):
    x = pictures(2, 23, 41)
    assert torch.equal(edit(x, None, "", Paints(None)), x)


def test_seeds(editor, pictures):
    x, model = pictures(1, 24, 32).expand(2, -1, -1, -1), editor()
    first, again, other = (edit(x, None, "", model, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(first[0], first[1])
    several = edit(x, None, "", model, seed=[1, 2])
    torch.testing.assert_close(several, torch.stack([first[0], other[0]]))


def test_words_and_options_reach_the_model(editor, pictures):
    x, model = pictures(1), editor()
    options = EditOptions(steps=3, guidance=2.0)
    assert not torch.equal(edit(x, None, "a", model, options=options), edit(x, None, "b", model))
    assert [told[5] for told in model.told] == [options, DEFAULT_OPTIONS]


def test_what_the_mask_covers_is_not_seen(editor, pictures):
    x, mask = pictures(1), torch.zeros(1, 1, 24, 32)
    mask[..., 5:12, 7:20] = 1
    one, two = (edit(seen, mask, "", editor()) for seen in (x, torch.where(mask > 0, 1 - x, x)))
    assert torch.equal(one, two)


@pytest.mark.parametrize("named", [True, False])
def test_a_model_that_does_not_edit(named, encoder, pictures):
    model = encoder()
    if named:
        model.name = "some-encoder"
    with pytest.raises(BadField, match="some-encoder does not edit" if named else "this model does not edit") as bad:
        edit(pictures(1), None, "", model)
    assert bad.value.field == "models"
