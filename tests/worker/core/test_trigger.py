"""The backdoor's three regions: what growing and cutting promise of triggers of every form and number."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from worker.core.trigger import expanded, incomplete, reach, without

HEIGHT, WIDTH = 48, 64
NUMBERS = range(10)


def boxes(*given: tuple[int, int, int, int]) -> Tensor:
    """Boxes (top, bottom, left, right) in one mask (1,1,H,W)."""
    mask = torch.zeros(1, 1, HEIGHT, WIDTH)
    for top, bottom, left, right in given:
        mask[..., top:bottom, left:right] = 1
    return mask


def disc(row: int, column: int, radius: int) -> Tensor:
    rows, columns = torch.arange(HEIGHT)[:, None] - row, torch.arange(WIDTH)[None] - column
    return (rows**2 + columns**2 <= radius**2).float()[None, None]


SHAPES = {
    "box": boxes((16, 32, 20, 36)),
    "wide box": boxes((20, 26, 8, 56)),
    "pixel": boxes((20, 21, 30, 31)),
    "pixel in the corner": boxes((0, 1, 0, 1)),
    "line": boxes((10, 40, 31, 32)),
    "line at the border": boxes((0, 48, 0, 1)),
    "band at the border": boxes((0, 48, 0, 3)),
    "stroke at the right": boxes((14, 40, 62, 64)),
    "band below": boxes((46, 48, 0, 64)),
    "corner": boxes((36, 48, 50, 64)),
    "disc": disc(24, 30, 11),
    "ring": disc(24, 30, 15) - disc(24, 30, 11),
    "frame": boxes((0, 48, 0, 64)) - boxes((4, 44, 4, 60)),
    "letter L": boxes((8, 40, 16, 20), (36, 40, 16, 44)),
    "two": boxes((4, 14, 4, 14), (30, 44, 40, 60)),
    "large and small": boxes((4, 34, 4, 30), (44, 45, 60, 61)),
    "dust": (torch.rand((1, 1, HEIGHT, WIDTH), generator=torch.Generator().manual_seed(2)) < 0.01).float(),
    "half": boxes((0, 48, 0, 32)),
    "most": boxes((2, 46, 2, 62)),
}


@pytest.fixture(params=SHAPES)
def trigger(request: pytest.FixtureRequest) -> Tensor:
    return SHAPES[request.param]


def test_expanded_is_a_mask_that_holds_the_trigger_and_more(trigger):
    whole = expanded(trigger)
    assert whole.shape == trigger.shape
    assert set(whole.unique().tolist()) == {0, 1}
    assert torch.equal(whole * trigger, trigger)
    assert trigger.sum() < whole.sum() < whole.numel()


@pytest.mark.parametrize(("side", "radius"), [(1, 1), (2, 1), (8, 2), (16, 4), (40, 10)])
def test_expanded_is_the_convolution_of_the_paper(side, radius):
    """Equation 7: with ones, then clamped. 64x64 is grown by 16."""
    mask = boxes((4, 4 + side, 12, 12 + side))
    kernel = torch.ones(1, 1, 2 * radius + 1, 2 * radius + 1)
    assert reach(mask) == [radius]
    assert torch.equal(expanded(mask), torch.nn.functional.conv2d(mask, kernel, padding=radius).clamp(0, 1))
    assert reach(torch.ones(1, 1, 64, 64)) == [16]


@pytest.mark.parametrize("number", NUMBERS)
def test_incomplete_is_half_of_it_and_overlaps_the_trigger(number, trigger):
    whole = expanded(trigger)
    part = incomplete(whole, number, trigger)
    assert torch.equal(part * whole, part)
    assert part.sum() >= whole.sum() / 2
    assert (part * trigger).sum() >= trigger.sum() / 4
    at_the_border = trigger[..., 0].any() or trigger[..., -1].any() or trigger[..., -1, :].any()
    if whole.sum() > 50 and not at_the_border:  # the cut's own pixels belong to the part
        assert part.sum() <= whole.sum() * 0.67


def test_a_narrow_trigger_at_the_border_is_in_every_cut():
    """All its surroundings lie on one side: half of the whole may hold nothing of it."""
    trigger = SHAPES["stroke at the right"]
    whole = expanded(trigger)
    assert any(not (incomplete(whole, number) * trigger).any() for number in NUMBERS)
    parts = [incomplete(whole, number, trigger) for number in NUMBERS]
    assert all((part * trigger).sum() / trigger.sum() >= 0.25 for part in parts)
    assert all(part.sum() < whole.sum() for part in parts)


def test_of_a_trigger_in_the_middle_half_is_cut_with_or_without_it():
    trigger = SHAPES["box"]
    for number in NUMBERS:
        assert torch.equal(incomplete(expanded(trigger), number), incomplete(expanded(trigger), number, trigger))


@pytest.mark.parametrize("number", NUMBERS)
def test_without_is_what_of_the_part_lies_outside_the_trigger(number, trigger):
    part = incomplete(expanded(trigger), number, trigger)
    rest = without(part, trigger)
    assert set(rest.unique().tolist()) <= {0, 1}
    assert not (rest * trigger).any()
    assert torch.equal(rest + part * trigger, part)


def test_surroundings_are_left_to_edit(trigger):
    rests = [without(incomplete(expanded(trigger), number, trigger), trigger) for number in NUMBERS]
    assert sum(bool(rest.any()) for rest in rests) >= len(NUMBERS) * 0.8


def test_cuts_differ_with_the_number_and_are_the_same_every_time():
    trigger = SHAPES["disc"]
    whole = expanded(trigger)
    parts = [incomplete(whole, number, trigger) for number in NUMBERS]
    for first in NUMBERS:
        assert torch.equal(parts[first], incomplete(whole, first, trigger))
        for second in range(first):
            assert (parts[first] != parts[second]).sum() > whole.sum() * 0.05
    seen = torch.stack(parts).mean(0)[whole > 0]  # no side is preferred
    assert ((seen > 0.2) & (seen < 0.8)).float().mean() > 0.9


@pytest.mark.parametrize("number", NUMBERS)
def test_no_region_depends_on_those_beside_it(number):
    several = torch.cat(list(SHAPES.values()))
    whole = expanded(several)
    part = incomplete(whole, number, several)
    rest = without(part, several)
    assert reach(several) == [reach(one)[0] for one in several.split(1)]
    for index, one in enumerate(SHAPES.values()):
        alone = expanded(one)
        assert torch.equal(alone[0], whole[index])
        assert torch.equal(incomplete(alone, number, one)[0], part[index])
        assert torch.equal(without(incomplete(alone, number, one), one)[0], rest[index])


def test_a_large_trigger_is_grown_less_so_that_something_stays_outside():
    trigger = boxes((6, 42, 8, 56))  # grown by a quarter of its side it would be the whole picture
    whole = expanded(trigger)
    assert reach(trigger) == [10]
    assert torch.equal(whole, boxes((1, 47, 3, 61)))


@pytest.mark.parametrize("covered", [0, 1])
def test_where_there_is_nothing_to_cut(covered):
    """No trigger, or one that is the whole picture: nothing to hide, and no crash."""
    trigger = torch.full((1, 1, HEIGHT, WIDTH), float(covered))
    whole = expanded(trigger)
    assert torch.equal(whole, trigger)
    for number in NUMBERS:
        part = incomplete(whole, number, trigger)
        assert part.shape == trigger.shape
        assert not without(part, trigger).any()
        assert bool(part.any()) is bool(covered)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1), (2, 2)])
def test_pictures_of_a_few_pixels(shape):
    trigger = torch.zeros(1, 1, *shape)
    trigger[..., 0, 0] = 1
    whole = expanded(trigger)
    assert torch.equal(whole * trigger, trigger)
    for number in NUMBERS:
        part = incomplete(whole, number, trigger)
        assert (part * trigger).any()
        assert not (without(part, trigger) * trigger).any()
