"""Masks: white is the sensitive region."""

from __future__ import annotations

import pytest
from PIL import Image

from service.contracts.errors import BadField, NotAnImage
from service.contracts.pictures import check_mask, covers, read_mask
from tests.helpers import encoded, png
from tests.service.contracts.examples import LIMIT


def test_a_mask_is_black_or_white() -> None:
    grey = Image.frombytes("L", (256, 1), bytes(range(256)))
    mask = read_mask(png(grey), (256, 1), max_pixels=LIMIT)
    assert mask.tobytes() == bytes(128) + b"\xff" * 128


@pytest.mark.parametrize(
    ("picture", "white"),
    [
        (Image.new("L", (4, 4), 255), True),
        (Image.new("1", (4, 4), 1), True),
        (Image.new("RGB", (4, 4), "white"), True),
        (Image.new("RGBA", (4, 4), (255, 255, 255, 255)), True),
        (Image.new("RGBA", (4, 4), (255, 255, 255, 0)), False),  # a hole in the mask is not white
        (Image.new("LA", (4, 4), (255, 10)), False),
        (Image.new("RGB", (4, 4), "blue"), False),
        (Image.new("I;16", (4, 4), 65535), True),
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else str(value),
)
def test_masks_of_every_mode(picture: Image.Image, white: bool) -> None:
    mask = read_mask(png(picture), (4, 4), max_pixels=LIMIT)
    assert covers(mask) == (white, not white)


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(BadField, match="it is 4x5 but the image is 5x4") as caught:
        read_mask(png(Image.new("L", (4, 5))), (5, 4), max_pixels=LIMIT)
    assert caught.value.field == "mask"


@pytest.mark.parametrize(
    "data", [b"", b"text", encoded(Image.new("F", (4, 4)), "TIFF")], ids=["empty", "text", "float"]
)
def test_a_mask_that_is_no_image_says_mask(data: bytes) -> None:
    with pytest.raises(NotAnImage, match=r"^mask: ") as caught:
        read_mask(data, (4, 4), max_pixels=LIMIT)
    assert caught.value.field == "mask"


def painted(white: float) -> Image.Image:
    """A mask (10x10) whose upper share is white."""
    mask = Image.new("L", (10, 10))
    mask.paste(255, (0, 0, 10, round(10 * white)))
    return mask


@pytest.mark.parametrize(
    ("mask", "needed", "said"),
    [
        (None, False, None),
        (None, True, "mask: this method protects one region and needs it; send a mask"),
        (painted(0), False, None),
        (painted(0), True, "mask: it is black everywhere"),
        (painted(0.5), False, None),
        (painted(0.5), True, None),
        (painted(0.1), True, None),
        (painted(0.9), True, None),
        (painted(1), False, "mask: it covers the whole picture, and the perturbation lies outside"),
        (painted(1), True, "mask: it covers the whole picture, and edits elsewhere are to go on"),
    ],
)
def test_masks_with_which_nothing_can_be_done(mask: Image.Image | None, needed: bool, said: str | None) -> None:
    if said is None:
        check_mask(mask, needed=needed)
        return
    with pytest.raises(BadField, match=said) as caught:
        check_mask(mask, needed=needed)
    assert caught.value.field == "mask"
