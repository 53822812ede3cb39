"""Pictures as bytes: what is refused, with which status and words."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile

from service.contracts.errors import BadField, InputError, NotAnImage, TooLarge
from service.contracts.pictures import READ_SENTENCE, read_picture
from tests.helpers import encoded, png
from tests.service.contracts.examples import LIMIT, SRGB, colours, header, see_through_palette


def _animation(format: str) -> bytes:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "green", "blue")]
    return encoded(frames[0], format, save_all=True, append_images=frames[1:], duration=50)


NOT_READ: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", f"image: the file is empty; send {READ_SENTENCE}"),
    "text": (lambda: b"hello, I am a picture.png\n" * 20, f"send {READ_SENTENCE}"),
    "svg": (lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>", f"send {READ_SENTENCE}"),
    "pdf": (lambda: encoded(colours(), "PDF"), f"send {READ_SENTENCE}"),
    "ppm": (lambda: encoded(colours(), "PPM"), f"send {READ_SENTENCE}"),
    "ico": (lambda: encoded(colours(), "ICO"), f"send {READ_SENTENCE}"),
    "signature alone": (lambda: b"\x89PNG\r\n\x1a\n", f"send {READ_SENTENCE}"),
    "animated gif": (lambda: _animation("GIF"), "3 frames or pages; send a still picture"),
    "animated webp": (lambda: _animation("WEBP"), "3 frames or pages; send a still picture"),
    "animated png": (lambda: _animation("PNG"), "3 frames or pages; send a still picture"),
    "tiff of pages": (lambda: _animation("TIFF"), "3 frames or pages; send a still picture"),
    "32-bit floats": (lambda: encoded(Image.new("F", (8, 8)), "TIFF"), "32-bit samples"),
    "32-bit integers": (lambda: encoded(Image.new("I", (8, 8)), "TIFF"), "32-bit samples"),
}


@pytest.mark.parametrize("field", ["image", "target_image"])
@pytest.mark.parametrize("case", NOT_READ)
def test_what_we_do_not_read_is_told_so(case: str, field: str) -> None:
    data, told = NOT_READ[case]
    with pytest.raises(NotAnImage) as caught:
        read_picture(data(), max_pixels=LIMIT, field=field)
    assert (caught.value.status, caught.value.field) == (415, field)
    assert caught.value.detail.startswith(f"{field}: ")
    assert told.replace("image: ", f"{field}: ") in caught.value.detail


@pytest.mark.parametrize("format", ["PNG", "JPEG", "BMP", "TIFF"])
def test_a_truncated_file_is_called_damaged(format: str, photograph: Image.Image) -> None:
    data = encoded(photograph, format)
    with pytest.raises(BadField, match="the file is damaged") as caught:
        read_picture(data[: len(data) // 2], max_pixels=LIMIT)
    assert (caught.value.status, caught.value.field) == (422, "image")
    assert f"{format}, 96x80" in caught.value.detail


@pytest.mark.parametrize("format", ["WEBP", "AVIF"])  # their decoders want the whole file before they say its size
def test_a_truncated_container_may_be_no_image_at_all(format: str, photograph: Image.Image) -> None:
    data = encoded(photograph, format)
    with pytest.raises((NotAnImage, BadField), match=r"not a whole one|damaged"):
        read_picture(data[: len(data) // 2], max_pixels=LIMIT)


@pytest.mark.parametrize(
    "data",
    [
        lambda: png(Image.new("RGB", (1001, 1000))),
        lambda: header(10_000, 10_000),  # past Pillow's warning
        lambda: header(60_000, 60_000),  # past Pillow's own limit
        lambda: header(2**31 - 1, 2**31 - 1),
    ],
    ids=["one row too many", "bomb", "great bomb", "greatest bomb"],
)
def test_too_many_pixels_are_refused_before_any_is_decoded(
    data: Callable[[], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb = data()
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda *_: pytest.fail("decoded"))
    with pytest.raises(TooLarge, match=str(LIMIT)) as caught:
        read_picture(bomb, max_pixels=LIMIT)
    assert (caught.value.status, caught.value.field) == (413, "image")


def test_just_enough_pixels_are_read() -> None:
    assert read_picture(png(Image.new("RGB", (1000, 1000))), max_pixels=LIMIT).size == (1000, 1000)


def test_memory_that_runs_out_is_no_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    data = png(colours())

    def load(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    with pytest.raises(TooLarge, match="memory"):
        read_picture(data, max_pixels=LIMIT)


FILES = {
    format: encoded(colours(), format)
    for format in ("PNG", "JPEG", "WEBP", "AVIF", "TIFF", "BMP", "GIF")
} | {"palette": see_through_palette(), "profile": encoded(colours(), "PNG", icc_profile=SRGB)}  # fmt: skip


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    name=st.sampled_from(sorted(FILES)),
    cut=st.integers(0, 4000),
    flips=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=4),
)
def test_hostile_bytes_give_a_picture_or_one_of_our_errors(name: str, cut: int, flips: list[tuple[int, int]]) -> None:
    data = bytearray(FILES[name])
    for place, value in flips:
        data[place % len(data)] = value
    try:
        picture = read_picture(bytes(data[: cut if cut % 2 else len(data)]), max_pixels=10_000)
    except InputError:
        return
    assert picture.pixels.mode == "RGB"
    assert picture.size[0] * picture.size[1] <= 10_000
