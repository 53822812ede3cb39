"""Perceptual metrics: silent without their weights; with weights of the real format they measure."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from worker.bench.perceptual import BACKBONE, Perceptual, frechet


@pytest.fixture
def nowhere(tmp_path):
    return Perceptual(tmp_path, str(tmp_path / "clip"))


@pytest.fixture(scope="module")
def present(tmp_path_factory):
    """Random weights, in the very files that real ones come in."""
    import torchvision
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    folder = tmp_path_factory.mktemp("weights")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(torchvision.models.alexnet().state_dict(), folder / BACKBONE)
        config = CLIPVisionConfig(
            hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, projection_dim=4
        )
        CLIPVisionModelWithProjection(config).save_pretrained(folder / "clip")
    return Perceptual(folder, str(folder / "clip"))


def pictures(count: int, seed: int) -> torch.Tensor:
    return torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


def test_without_weights_there_is_no_number(nowhere):
    a = pictures(3, 0)
    assert nowhere.lpips(a, a) is None
    assert nowhere.clip_fid(a, a) is None
    lpips, clip = nowhere.missing()
    assert "LPIPS: weights not present" in lpips
    assert "CLIP-FID: weights not present" in clip
    assert "hf download" in clip


def test_equal_pictures_are_at_no_distance(present):
    a, b = pictures(6, 0), pictures(6, 1)
    assert present.missing() == []
    assert present.lpips(a, a) == pytest.approx([0] * 6, abs=1e-6)
    assert min(present.lpips(a, b)) > 1e-4
    assert present.clip_fid(a, a) == pytest.approx(0, abs=1e-6)
    assert present.clip_fid(a, b.pow(4)) > present.clip_fid(a, b) > 1e-3


def test_one_picture_has_no_distribution(present):
    assert present.clip_fid(pictures(1, 0), pictures(4, 1)) is None


def test_lpips_is_the_packages_own_with_that_backbone(present):
    """Its own slices hold copies of the backbone's layers."""
    state = torch.load(present._checkpoints / BACKBONE, weights_only=True)
    present.missing()
    assert torch.equal(present._distance.net.slice2[-2].weight, state["features.3.weight"])


def test_frechet_of_known_gaussians():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(200_000, 2))
    b = rng.normal(size=(200_000, 2)) * [2, 3] + [1, -2]
    # |(1,-2)|² + (2-1)² + (3-1)²
    assert frechet(a, b) == pytest.approx(10, rel=0.02)
    assert frechet(a, b) == pytest.approx(frechet(b, a))
