"""Similarity inside a region sees that region alone."""

from __future__ import annotations

import math

import pytest
import torch

from worker.bench.regions import psnr, ssim


@pytest.fixture
def scene():
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 0.5
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., 8:24, 8:24] = 1
    return x, mask


def test_psnr_of_a_known_error(scene):
    x, mask = scene
    assert psnr(x + 0.1 * mask, x, mask) == pytest.approx([20, 20], abs=1e-3)
    assert psnr(x + 0.1 * (1 - mask), x, mask) == [100, 100]


def test_each_picture_by_its_own_mask(scene):
    x, mask = scene
    masks = torch.cat([mask, 1 - mask])
    near, far = psnr(x + 0.1 * mask, x, masks)
    assert near == pytest.approx(20, abs=1e-3)
    assert far == 100


def test_ssim(scene):
    x, mask = scene
    inner = torch.zeros_like(mask)
    inner[..., 12:20, 12:20] = 1
    assert ssim(x, x, mask) == pytest.approx([1, 1])
    assert max(ssim(x * (1 - mask), x, mask)) < 0.5
    assert ssim(x * mask, x, inner) == pytest.approx([1, 1])  # what happened is out of the windows' sight


def test_nothing_to_compare(scene):
    x, mask = scene
    assert all(map(math.isnan, ssim(x, x, mask * 0)))
    assert all(map(math.isnan, psnr(x, x, mask * 0)))
