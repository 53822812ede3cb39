"""Names of sizes, what they make of a picture's own size, and pictures made smaller."""

from __future__ import annotations

import pytest
from PIL import Image, ImageChops, ImageStat

from service.contracts.batching import batch_key
from service.contracts.catalog import load_models
from service.contracts.pictures import Picture
from service.contracts.plan import make_plan
from service.contracts.renditions import own_sizes, parse_sizes, renditions
from service.contracts.resize import resized, resized_mask


@pytest.mark.parametrize(
    ("name", "size", "made"),
    [
        ("1024", (4000, 3000), (1024, 768)),
        ("1024", (3000, 4000), (768, 1024)),
        ("1024", (1000, 700), (1000, 700)),  # never larger
        ("512x512", (4000, 3000), (512, 384)),
        ("512x100", (4000, 3000), (133, 100)),
        ("99999x99999", (40, 30), (40, 30)),
        ("256w", (4000, 3000), (256, 192)),
        ("256h", (4000, 3000), (341, 256)),
        ("256w", (100, 3000), (100, 3000)),
        ("original", (4000, 3000), (4000, 3000)),
        ("100", (20_000, 10), (100, 1)),  # never nothing
        ("1", (7, 9), (1, 1)),
    ],
)
def test_what_a_name_makes_of_a_size(name: str, size: tuple[int, int], made: tuple[int, int]) -> None:
    (rendition,) = renditions(parse_sizes(name), size)
    assert (rendition.name, rendition.size) == (name, made)


@pytest.mark.parametrize(
    ("names", "made"),
    [
        ("", ((400, 300),)),
        ("100", ((100, 75),)),
        ("100,200", ((200, 150), (100, 75))),
        ("100,100w,100x75", ((100, 75),)),
        ("original,1000,2000,100", ((400, 300), (100, 75))),
    ],
)
def test_each_size_is_made_once_and_the_largest_first(names: str, made: tuple[tuple[int, int], ...]) -> None:
    assert own_sizes(parse_sizes(names) if names else (), (400, 300)) == made


def key(size: tuple[int, int], sizes: str | None = None, **more: str) -> str:
    fields = more | ({} if sizes is None else {"sizes": sizes})
    return batch_key(make_plan(fields, load_models()), size, mask=False, target=None)


def test_jobs_go_together_by_the_sizes_that_are_made_of_them() -> None:
    assert key((4000, 3000), "1024,512") == key((2000, 1500), "512x512,1024w") == key((1024, 768), "original,512")
    assert key((4000, 3000), "1024") == key((1024, 768))
    assert key((4000, 3000), "1024") != key((4000, 3000))
    assert key((4000, 3000), "1024,512") != key((4000, 3000), "1024")
    assert key((64, 48), format="jpeg", quality="5", exif="keep", data_mining="reserved", sign="true") == key((64, 48))


@pytest.mark.parametrize("size", [(48, 40), (7, 80), (1, 1)])
def test_a_picture_made_smaller(size: tuple[int, int], photograph: Image.Image) -> None:
    picture = Picture(photograph, None, b"profile")
    made = resized(picture, size)
    assert (made.size, made.pixels.mode, made.alpha, made.icc_profile) == (size, "RGB", None, b"profile")
    means = (ImageStat.Stat(each).mean for each in (photograph, made.pixels))
    assert all(abs(one - other) < 12 for one, other in zip(*means, strict=True))
    assert resized(picture, photograph.size) is picture


def test_stripes_too_fine_to_show_become_grey() -> None:
    stripes = Image.new("L", (64, 64))
    stripes.putdata([255 * (place % 2) for place in range(64 * 64)])
    low, high = resized(Picture(stripes.convert("RGB")), (20, 20)).pixels.convert("L").getextrema()
    assert 100 < low <= high < 156


def test_nothing_shines_through_from_under_transparent_pixels() -> None:
    pixels, alpha = Image.new("RGB", (40, 40), (255, 0, 0)), Image.new("L", (40, 40))
    pixels.paste((0, 0, 255), (0, 0, 21, 40))
    alpha.paste(255, (0, 0, 21, 40))
    made = resized(Picture(pixels, alpha), (10, 10))
    assert made.alpha is not None
    seen = Image.composite(
        made.pixels, Image.new("RGB", (10, 10), (0, 0, 255)), made.alpha.point(lambda a: 255 * (a > 8))
    )
    assert ImageChops.difference(seen, Image.new("RGB", (10, 10), (0, 0, 255))).getextrema()[0][1] < 40


def test_a_mask_made_smaller_is_still_black_and_white() -> None:
    mask = Image.new("L", (64, 64))
    mask.paste(255, (0, 0, 33, 64))
    made = resized_mask(mask, (10, 10))
    assert sorted({made.getpixel((x, y)) for x in range(10) for y in range(10)}) == [0, 255]  # type: ignore[type-var]
    assert [made.getpixel((x, 5)) for x in range(10)] == [255] * 5 + [0] * 5
    assert resized_mask(mask, (64, 64)) is mask
