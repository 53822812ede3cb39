"""Regions: what growing and drawing promise of every mask, and that none depends on those beside it."""

from __future__ import annotations

import pytest
import torch

from worker.core.region import LEAST, MOST, drawn, grown, sides, unforeseen


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def box(height: int, width: int, top: int, bottom: int, left: int, right: int) -> torch.Tensor:
    mask = torch.zeros(1, 1, height, width)
    mask[..., top:bottom, left:right] = 1
    return mask


@pytest.mark.parametrize(
    ("given", "radius", "wanted"),
    [
        ((5, 9, 6, 12), 0, (5, 9, 6, 12)),
        ((5, 9, 6, 12), 2, (3, 11, 4, 14)),
        ((5, 9, 6, 12), -1, (6, 8, 7, 11)),
        ((0, 4, 0, 20), 3, (0, 7, 0, 20)),  # cut off at the picture's edge
        ((0, 4, 0, 20), -1, (0, 3, 0, 20)),  # and what lies on the edge is not shrunken from there
        ((5, 9, 6, 12), -2, (5, 9, 6, 12)),  # would vanish
        ((5, 9, 6, 12), -100, (5, 9, 6, 12)),
        ((5, 9, 6, 12), 100, (5, 9, 6, 12)),  # would leave nothing outside
        ((0, 16, 0, 20), 1, (0, 16, 0, 20)),
        ((0, 16, 0, 20), -1, (0, 16, 0, 20)),
        ((0, 0, 0, 0), 4, (0, 0, 0, 0)),
    ],
)
def test_grown(given, radius, wanted):
    assert torch.equal(grown(box(16, 20, *given), radius), box(16, 20, *wanted))


def test_every_image_of_a_batch_is_grown_by_itself():
    masks = torch.cat([box(16, 20, 5, 9, 6, 12), box(16, 20, 7, 8, 3, 4), box(16, 20, 2, 14, 2, 18)])
    for radius in (-3, -1, 0, 2, 8):
        assert torch.equal(grown(masks, radius), torch.cat([grown(mask, radius) for mask in masks.split(1)]))


def test_sides_are_those_of_squares_as_large_as_the_regions():
    masks = torch.cat([box(16, 20, 4, 8, 2, 18), box(16, 20, 0, 5, 0, 5), box(16, 20, 0, 0, 0, 0)])
    assert sides(masks) == [8, 5, 0]


@pytest.mark.parametrize("seed", range(8))
def test_unforeseen_is_the_same_region_larger_or_smaller(seed):
    given = box(40, 50, 10, 30, 12, 40)
    made = unforeseen(given, sides(given), generator(seed))
    assert made.unique().tolist() == [0, 1]
    assert (made * given).equal(given) or (made * given).equal(made)
    assert 0.2 < made.sum() / given.sum() < 4
    assert torch.equal(made, unforeseen(given, sides(given), generator(seed)))


def test_unforeseen_varies():
    given = box(40, 50, 10, 30, 12, 40)
    lengths = sides(given)
    shares = [float(unforeseen(given, lengths, generator(seed)).sum() / given.sum()) for seed in range(30)]
    assert min(shares) < 0.8
    assert max(shares) > 1.3
    assert len(set(shares)) > 8


@pytest.mark.parametrize("seed", range(4))
def test_unforeseen_does_not_depend_on_the_batch(seed):
    small, large = box(40, 50, 10, 16, 12, 20), box(40, 50, 2, 30, 5, 45)
    both = torch.cat([small, large])
    together = unforeseen(both, sides(both), generator(seed))
    assert torch.equal(together[:1], unforeseen(small, sides(small), generator(seed)))
    assert torch.equal(together[1:], unforeseen(large, sides(large), generator(seed)))


@pytest.mark.parametrize("shape", [(64, 64), (16, 200), (200, 16), (8, 8), (24, 32), (1, 1), (8, 4096)])
def test_drawn(shape):
    height, width = shape
    masks = [drawn(height, width, generator(seed)) for seed in range(40)]
    slack = 0.5 * (height + width) / (height * width) + 1e-6  # sides are whole pixels
    for mask in masks:
        assert mask.shape == (1, 1, height, width)
        assert mask.max() == 1
        share = float(mask.mean())
        inside = share if _is_box(mask) else 1 - share
        assert LEAST - slack <= inside <= MOST + slack
        if min(shape) > 1:
            assert mask.min() == 0
    if min(shape) > 1:
        assert len({tuple(mask.flatten().tolist()) for mask in masks}) > 10
        assert 4 <= sum(not _is_box(mask) for mask in masks) <= 20
    assert torch.equal(masks[3], drawn(height, width, generator(3)))


def _is_box(mask: torch.Tensor) -> bool:
    rows, columns = (torch.nonzero(mask[0, 0].amax(axis))[:, 0] for axis in (1, 0))
    return bool(mask[0, 0, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all())
