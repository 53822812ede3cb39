"""Pictures as tensors, and how far one is from another, against plain numpy and scikit-image."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from worker import images
from worker.images import compare, to_picture, to_tensor


def random_picture(height: int, width: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def nudged(picture: Image.Image, most: int, seed: int = 1) -> Image.Image:
    values = np.asarray(picture).astype(int)
    values += np.random.default_rng(seed).integers(-most, most + 1, values.shape)
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("size", [(5, 7), (1, 1), (1, 300), (64, 3)])
def test_there_and_back(size):
    picture = random_picture(*size)
    x = to_tensor(picture)
    assert x.shape == (1, 3, *size)
    assert x.dtype == torch.float32
    assert x.min() >= 0
    assert x.max() <= 1
    assert to_picture(x).tobytes() == picture.tobytes()


def test_all_levels_there_and_back():
    levels = Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2))
    assert to_picture(to_tensor(levels)).tobytes() == levels.tobytes()


def test_a_mask_is_one_plane():
    mask = Image.new("L", (7, 5))
    mask.paste(255, (2, 1, 4, 3))
    x = to_tensor(mask)
    assert x.shape == (1, 1, 5, 7)
    assert x.unique().tolist() == [0, 1]
    assert x.sum() == 4
    assert x[0, 0, 1, 2] == 1


def test_what_is_off_the_grid_is_rounded_and_clamped():
    x = torch.tensor([-0.2, 0.4 / 255, 0.6 / 255, 1.3]).view(1, 1, 2, 2).expand(1, 3, 2, 2)
    assert np.asarray(to_picture(x))[..., 0].tolist() == [[0, 0], [1, 255]]


def test_the_tensor_is_its_own():
    picture = random_picture(4, 4)
    before = picture.tobytes()
    to_tensor(picture).zero_()
    assert picture.tobytes() == before


SIZES = [(7, 7), (50, 33), (100, 20), (8, 200), (71, 64)]


@pytest.mark.parametrize("strip", [1, 500, 4_000_000])
@pytest.mark.parametrize("size", SIZES)
def test_compare_is_the_whole_pictures_figures(size, strip, monkeypatch):
    monkeypatch.setattr(images, "STRIP_PIXELS", strip)
    original = random_picture(*size)
    delivered = nudged(original, 9)
    found = compare(original, delivered)
    first, second = (np.asarray(picture).astype(float) for picture in (original, delivered))
    assert found.linf_255 == np.abs(first - second).max()
    assert isinstance(found.linf_255, int)
    assert found.l2_255 == pytest.approx(np.linalg.norm(first - second), abs=1e-3)
    assert found.psnr_db == pytest.approx(peak_signal_noise_ratio(first, second, data_range=255), abs=0.01)
    wanted = structural_similarity(np.asarray(original), np.asarray(delivered), channel_axis=2, data_range=255)
    assert found.ssim == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("size", [(1, 1), (6, 100), (100, 6), (3, 3)])
def test_pictures_under_a_window_have_no_ssim(size):
    original = random_picture(*size)
    found = compare(original, nudged(original, 3))
    assert found.ssim is None
    assert found.linf_255 in range(4)


def test_equal_pictures():
    found = compare(random_picture(20, 20), random_picture(20, 20))
    assert (found.linf_255, found.l2_255, found.psnr_db, found.ssim) == (0, 0, None, 1)


@pytest.mark.parametrize("strip", [1, 4_000_000])
def test_one_changed_pixel_is_found_wherever_it_is(strip, monkeypatch):
    monkeypatch.setattr(images, "STRIP_PIXELS", strip)
    original = random_picture(30, 9)
    for row in range(30):
        changed = original.copy()
        level = original.getpixel((4, row))
        changed.putpixel((4, row), (level[0], level[1] ^ 128, level[2]))
        found = compare(original, changed)
        assert (found.linf_255, found.l2_255) == (128, 128)
        assert found.ssim < 1
