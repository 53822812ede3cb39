"""Pictures as bytes: what comes out again."""

from __future__ import annotations

import pytest
from PIL import Image

from service.contracts.errors import BadField
from service.contracts.pictures import Picture, check_format, read_picture, write_picture
from tests.helpers import opened
from tests.service.contracts.examples import LIMIT, SRGB


@pytest.mark.parametrize("format", ["png", "webp"])
@pytest.mark.parametrize("alpha", [None, "ramp", "holes"])
@pytest.mark.parametrize("profile", [None, SRGB], ids=["no profile", "profile"])
def test_a_lossless_format_gives_back_every_pixel(
    format: str, alpha: str | None, profile: bytes | None, photograph: Image.Image
) -> None:
    size = photograph.size
    alphas = {"ramp": Image.linear_gradient("L").resize(size), "holes": Image.new("L", size, 0)}
    picture = Picture(photograph, alphas[alpha] if alpha else None, profile)
    back = read_picture(write_picture(photograph, picture, format), max_pixels=LIMIT)
    assert back.pixels.tobytes() == photograph.tobytes(), "colours under a transparent pixel count as well"
    assert back.icc_profile == profile
    assert (back.alpha is None) == (picture.alpha is None)
    if back.alpha is not None and picture.alpha is not None:
        assert back.alpha.tobytes() == picture.alpha.tobytes()


def test_jpeg_is_written_in_full_colour_with_its_profile(photograph: Image.Image) -> None:
    data = write_picture(photograph, Picture(photograph, None, SRGB), "jpeg", quality=95)
    made = opened(data)
    assert made.format == "JPEG"
    assert [layer[1:3] for layer in made.layer] == [(1, 1)] * 3  # type: ignore[attr-defined]
    assert read_picture(data, max_pixels=LIMIT).icc_profile == SRGB


@pytest.mark.parametrize(
    ("format", "size", "alpha", "told"),
    [
        ("webp", (16384, 1), False, "at most 16383 pixels a side"),
        ("webp", (16383, 1), False, None),
        ("png", (16384, 1), True, None),
        ("jpeg", (4, 4), True, "alpha"),
        ("jpeg", (4, 4), False, None),
        ("jpeg", (65501, 1), False, "jpeg holds at most"),
        ("jpeg", (65500, 1), False, None),
    ],
)
def test_a_format_that_cannot_hold_the_picture(
    format: str, size: tuple[int, int], alpha: bool, told: str | None
) -> None:
    picture = Picture(Image.new("RGB", size), Image.new("L", size) if alpha else None)
    if told is None:
        check_format(format, picture)
        assert opened(write_picture(picture.pixels, picture, format)).size == size
        return
    with pytest.raises(BadField, match=told) as caught:
        check_format(format, picture)
    assert caught.value.field == "format"
