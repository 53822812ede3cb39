"""Pictures as bytes: what is read, and as what."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from PIL import Image, ImageChops, ImageStat

from service.contracts.pictures import read_picture
from tests.helpers import encoded, png
from tests.service.contracts.examples import (
    GREY_PROFILE,
    LIMIT,
    SRGB,
    colours,
    eight_bit,
    oriented,
    paletted,
    ramp,
    see_through_palette,
    sixteen_bit,
    translucent,
)

Case = tuple[Callable[[], bytes], Callable[[], Image.Image]]
AS_IS: dict[str, Case] = {
    "RGB png": (lambda: png(colours()), colours),
    "RGB bmp": (lambda: encoded(colours(), "BMP"), colours),
    "RGB tiff": (lambda: encoded(colours(), "TIFF"), colours),
    "RGB tiff, compressed": (lambda: encoded(colours(), "TIFF", compression="tiff_lzw"), colours),
    "RGB webp, lossless": (lambda: encoded(colours(), "WEBP", lossless=True), colours),
    "grey": (lambda: png(ramp()), lambda: ramp().convert("RGB")),
    "black and white": (lambda: png(ramp().convert("1")), lambda: ramp().convert("1").convert("RGB")),
    "16-bit grey": (lambda: png(sixteen_bit()), lambda: eight_bit().convert("RGB")),
    "16-bit grey tiff": (lambda: encoded(sixteen_bit(), "TIFF"), lambda: eight_bit().convert("RGB")),
    "palette": (lambda: png(paletted()), lambda: paletted().convert("RGB")),
    "one-frame gif": (lambda: encoded(paletted(), "GIF"), lambda: paletted().convert("RGB")),
    "one pixel": (lambda: png(Image.new("RGB", (1, 1), (1, 2, 3))), lambda: Image.new("RGB", (1, 1), (1, 2, 3))),
    "20000x10": (lambda: png(colours(20000, 10)), lambda: colours(20000, 10)),
    "opaque alpha": (lambda: png(colours().convert("RGBA")), colours),
    "turned on its side": (lambda: oriented(6), lambda: colours().transpose(Image.Transpose.ROTATE_270)),
    "mirrored tiff": (lambda: oriented(2, "TIFF"), lambda: colours().transpose(Image.Transpose.FLIP_LEFT_RIGHT)),
    "CMYK tiff": (
        lambda: encoded(colours().convert("CMYK"), "TIFF"),
        lambda: colours().convert("CMYK").convert("RGB"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", AS_IS)
def test_pixels_are_those_of_the_file(case: str) -> None:
    data, expected = AS_IS[case]
    picture = read_picture(data(), max_pixels=LIMIT)
    assert (picture.pixels.mode, picture.alpha, picture.icc_profile) == ("RGB", None, None)
    assert picture.pixels.size == expected().size
    assert picture.pixels.tobytes() == expected().tobytes()


@pytest.mark.parametrize(
    ("format", "options"),
    [("JPEG", {"quality": 95}), ("WEBP", {"quality": 95}), ("AVIF", {"quality": 95})],
    ids=lambda x: str(x),
)
def test_lossy_formats_are_read(format: str, options: dict[str, int], photograph: Image.Image) -> None:
    picture = read_picture(encoded(photograph, format, **options), max_pixels=LIMIT)
    assert picture.size == photograph.size
    assert max(high for _, high in ImageChops.difference(picture.pixels, photograph).getextrema()) < 64


def test_a_cmyk_jpeg_is_read_as_colours(photograph: Image.Image) -> None:
    picture = read_picture(encoded(photograph.convert("CMYK"), "JPEG", quality=95), max_pixels=LIMIT)
    assert picture.pixels.mode == "RGB"
    assert sum(ImageStat.Stat(ImageChops.difference(picture.pixels, photograph)).mean) < 30


@pytest.mark.parametrize(
    "data",
    [
        lambda: png(translucent()),
        lambda: encoded(translucent(), "WEBP", lossless=True, exact=True),
        lambda: encoded(translucent(), "TIFF"),
    ],
    ids=["png", "webp", "tiff"],
)
def test_alpha_is_kept_beside_the_pixels(data: Callable[[], bytes]) -> None:
    picture = read_picture(data(), max_pixels=LIMIT)
    assert picture.alpha is not None
    assert picture.alpha.tobytes() == ramp().tobytes()
    assert picture.pixels.tobytes() == colours().tobytes()


def test_a_grey_picture_keeps_its_alpha() -> None:
    picture = read_picture(png(Image.merge("LA", (ramp(), ramp()))), max_pixels=LIMIT)
    assert picture.alpha is not None
    assert picture.alpha.tobytes() == ramp().tobytes()
    assert picture.pixels.tobytes() == ramp().convert("RGB").tobytes()


def test_a_palettes_transparency_becomes_alpha() -> None:
    picture = read_picture(see_through_palette(), max_pixels=LIMIT)
    assert picture.alpha is not None
    assert set(picture.alpha.tobytes()) == {0, 128, 255}
    assert picture.pixels.tobytes() == paletted().convert("RGB").tobytes()


@pytest.mark.parametrize(
    ("data", "kept"),
    [
        (lambda: encoded(colours(), "PNG", icc_profile=SRGB), True),
        (lambda: encoded(colours(), "JPEG", icc_profile=SRGB), True),
        (lambda: encoded(colours(), "WEBP", icc_profile=SRGB), True),
        (lambda: encoded(ramp(), "PNG", icc_profile=GREY_PROFILE), False),
        (lambda: encoded(colours(), "PNG", icc_profile=b"no profile"), False),
        (lambda: encoded(ramp(), "TIFF", icc_profile=b"x" * 16 + b"GRAY" + b"x" * 100), False),
        (lambda: encoded(colours().convert("CMYK"), "TIFF", icc_profile=b"x" * 16 + b"CMYK" + b"x" * 100), False),
    ],
    ids=["png", "jpeg", "webp", "grey", "too short", "broken grey", "broken cmyk"],
)
def test_an_rgb_profile_is_kept_and_a_broken_one_ignored(data: Callable[[], bytes], kept: bool) -> None:
    picture = read_picture(data(), max_pixels=LIMIT)
    assert picture.icc_profile == (SRGB if kept else None)


def test_a_turned_picture_keeps_its_profile() -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    picture = read_picture(encoded(colours(), "JPEG", exif=exif, icc_profile=SRGB), max_pixels=LIMIT)
    assert picture.size == (16, 24)
    assert picture.icc_profile == SRGB
