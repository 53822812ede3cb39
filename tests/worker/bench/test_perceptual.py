"""Perceptual metrics: silent without their weights; with weights of the real format they measure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from worker.bench.perceptual import BACKBONE, CLIP, CLIP_REVISION, Perceptual, as_clip_sees, frechet

TINY = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "projection_dim": 4,
}


@pytest.fixture
def nowhere(tmp_path):
    return Perceptual(tmp_path, tmp_path / "clip")


@pytest.fixture(scope="module")
def present(tmp_path_factory):
    """Random weights, in the very files that real ones come in."""
    import torchvision

    folder = tmp_path_factory.mktemp("weights")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(torchvision.models.alexnet().state_dict(), folder / BACKBONE)
    save_clip(folder / "clip")
    return Perceptual(folder, folder / "clip")


def save_clip(folder: Path) -> None:
    """Both towers in one file, as CLIP is published."""
    from transformers import CLIPConfig, CLIPModel

    text = TINY | {"vocab_size": 64, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        CLIPModel(CLIPConfig(text_config=text, vision_config=TINY, projection_dim=4)).save_pretrained(folder)


def pictures(count: int, seed: int) -> torch.Tensor:
    return torch.rand(count, 3, 64, 64, generator=torch.Generator().manual_seed(seed))


def test_without_weights_there_is_no_number(nowhere):
    a = pictures(3, 0)
    assert nowhere.lpips(a, a) is None
    assert nowhere.clip_fid(a, a) is None
    lpips, clip = nowhere.missing()
    assert "LPIPS: weights not present" in lpips
    assert "CLIP-FID: weights not present" in clip
    assert f"hf download {CLIP} config.json model.safetensors --revision {CLIP_REVISION}" in clip


def test_half_a_checkpoint_is_none(tmp_path):
    """Its projection would stay random."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    CLIPVisionModel(CLIPVisionConfig(**TINY)).save_pretrained(tmp_path)
    assert Perceptual(tmp_path, tmp_path).clip_fid(pictures(3, 0), pictures(3, 1)) is None


def test_clip_is_found_in_the_hub_cache_at_its_revision(tmp_path, monkeypatch):
    """Where `hf download --revision` leaves it, and no other revision."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    snapshots = tmp_path / f"models--{CLIP.replace('/', '--')}" / "snapshots"
    save_clip(snapshots / ("0" * 40))
    (snapshots.parent / "refs").mkdir()
    (snapshots.parent / "refs" / "main").write_text("0" * 40)
    assert Perceptual(tmp_path).clip_fid(pictures(3, 0), pictures(3, 1)) is None
    save_clip(snapshots / CLIP_REVISION)
    assert Perceptual(tmp_path).clip_fid(pictures(3, 0), pictures(3, 1)) > 0


def test_loading_says_nothing(present, capfd):
    assert Perceptual(present._checkpoints, present._clip_source).missing() == []
    assert capfd.readouterr() == ("", "")


def test_equal_pictures_are_at_no_distance(present):
    a, b = pictures(6, 0), pictures(6, 1)
    assert present.missing() == []
    assert present.lpips(a, a) == pytest.approx([0] * 6, abs=1e-6)
    assert min(present.lpips(a, b)) > 1e-4
    assert present.clip_fid(a, a) == pytest.approx(0, abs=1e-6)
    assert present.clip_fid(a, b.pow(4)) > present.clip_fid(a, b) > 1e-3


def test_one_picture_has_no_distribution(present):
    assert present.clip_fid(pictures(1, 0), pictures(4, 1)) is None


@pytest.mark.filterwarnings("ignore")  # of the package itself
def test_lpips_is_the_packages_own(present, tmp_path, monkeypatch):
    import lpips

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "checkpoints").symlink_to(present._checkpoints)
    a, b = pictures(3, 0), pictures(3, 1)
    with torch.no_grad():
        theirs = lpips.LPIPS(net="alex", verbose=False).eval()(a, b, normalize=True)
    assert Perceptual(clip=tmp_path).lpips(a, b) == pytest.approx(theirs.flatten().tolist(), rel=1e-5)


@pytest.mark.parametrize("shape", [(64, 64), (256, 256), (200, 320), (301, 230)])
def test_clip_sees_what_its_processor_makes(shape):
    from transformers import CLIPImageProcessor

    x = torch.nn.functional.interpolate(pictures(2, 0)[..., :16, :16], shape, mode="bilinear").mul(255).round() / 255
    files = [Image.fromarray((picture * 255).round().byte().permute(1, 2, 0).numpy()) for picture in x]
    wanted = CLIPImageProcessor()(images=files, return_tensors="pt")["pixel_values"]
    assert as_clip_sees(x) == pytest.approx(wanted, abs=0.02)  # theirs is rounded to 8 bits on the way


def test_frechet_by_hand():
    """|(1,2)|² + tr A + tr B - 2 tr (A B)^½; A B has trace 25 and determinant 36, so its root has trace √(25 + 2·6)."""
    rng = np.random.default_rng(0)
    plain = rng.normal(size=(50, 2))
    plain = (plain - plain.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(plain, rowvar=False))).T
    a = plain @ np.diag([2, 1])
    b = plain @ np.linalg.cholesky([[5, 4], [4, 5]]).T + [1, 2]
    assert frechet(a, b) == pytest.approx(5 + 5 + 10 - 2 * 37**0.5)
    assert frechet(b, a) == pytest.approx(frechet(a, b))


def test_frechet_of_fewer_vectors_than_dimensions():
    """Two vectors each: covariances along one line."""
    a, b = np.zeros((2, 64)), np.zeros((2, 64))
    a[1, :2], b[1, :2] = [2, 0], [0, 2]
    assert frechet(a, a) == pytest.approx(0, abs=1e-12)
    assert frechet(a, b) == pytest.approx(2 + 2 + 2)  # the means are √2 apart, the lines at right angles


def test_frechet_of_known_gaussians():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(200_000, 2))
    b = rng.normal(size=(200_000, 2)) * [2, 3] + [1, -2]
    # |(1,-2)|² + (2-1)² + (3-1)²
    assert frechet(a, b) == pytest.approx(10, rel=0.02)
    assert frechet(a, b) == pytest.approx(frechet(b, a))
