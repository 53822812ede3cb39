"""EXIF: what stays as it was, what is set right, what goes, and that no bytes do harm."""

from __future__ import annotations

import io
import random
import struct

import pytest
from PIL import Image

from tests import tagged
from worker.metadata import exif
from worker.metadata.found import Unreadable

SIZE = (96, 80)
PREVIEW = b"\xff\xd8\xff\xe0" + bytes(500) + b"\xff\xd9"
WHOLE = tagged.exif(PREVIEW, (80, 96))


def read(data: bytes) -> Image.Exif:
    """By Pillow, a reader that is not ours."""
    found = Image.Exif()
    found.load(data)
    return found


def rewritten(data: bytes, *, location: bool = False) -> bytes:
    made, damaged = exif.rewrite(data, size=SIZE, location=location)
    assert not damaged
    assert made is not None
    return made


@pytest.mark.parametrize("location", [False, True])
def test_what_stays_and_what_is_set_right(location):
    main, further = read(rewritten(WHOLE, location=location)), read(rewritten(WHOLE, location=location)).get_ifd(0x8769)
    assert (main[0x010F], main[0xC4A5], further[0xA434]) == ("Camera", b"PrintIM\0unknown to most", "A lens")
    assert main[0x8298].encode("latin-1").decode() == tagged.COPYRIGHT
    assert float(further[0x829A]) == 1 / 250
    assert main[0x0112] == 1
    assert (main[0x0100], main[0x0101], further[0xA002], further[0xA003]) == (*SIZE, *SIZE)


@pytest.mark.parametrize("location", [False, True])
def test_places_and_maker_notes_go_with_the_location(location):
    made = rewritten(WHOLE, location=location)
    assert bool(read(made).get_ifd(0x8825)) is location
    assert (0x927C in read(made).get_ifd(0x8769)) is location
    assert (made[tagged.NOTES_AT :].startswith(tagged.NOTES)) is location, "what points into them still does"


@pytest.mark.parametrize("location", [False, True])
def test_the_thumbnail_always_goes(location):
    made = rewritten(WHOLE, location=location)
    assert b"\xff\xd8" not in made
    assert not read(made).get_ifd(1)


HIDDEN = {
    "a comment": {"exif": {0x9286: (tagged.UNDEFINED, b"ASCII\0\0\0" + PREVIEW)}},
    "a title": {"main": {0x010E: (tagged.ASCII, PREVIEW)}},
    "Windows' thumbnail": {"main": {0x501B: (tagged.BYTE, bytes(90))}},
    "a raw file's data": {"main": {0xC634: (tagged.BYTE, b"Adobe\0" + bytes(90))}},
    "notes that changed its first byte": {"exif": {0xFDE8: (tagged.UNDEFINED, b"notes\0\x02\xd8\xff\xdb" + bytes(90))}},
    "a png": {"gps": {0x1D: (tagged.UNDEFINED, b"\x89PNG\r\n\x1a\n" + bytes(90))}},
    "a heif": {"exif": {0xFDE8: (tagged.UNDEFINED, b"\0\0\0\x18ftypheic" + bytes(90))}},
    "a strip": {"main": {0x0111: tagged.long(400), 0x0117: tagged.long(200)}},
    "further pictures": {"main": {0x014A: tagged.long(400)}},
    "a profile of Photoshop's": {"main": {0x8649: (tagged.BYTE, b"8BIM" + PREVIEW)}},
}


@pytest.mark.parametrize("location", [False, True])
@pytest.mark.parametrize("case", HIDDEN)
def test_previews_in_other_places_go_too(case, location):
    data = tagged.exif(PREVIEW, (80, 96), **HIDDEN[case])
    assert rewritten(data, location=location) == rewritten(WHOLE, location=location)


@pytest.mark.parametrize("location", [False, True])
def test_again_nothing_changes(location):
    made = rewritten(WHOLE, location=location)
    assert rewritten(made, location=location) == made


def test_either_order_of_bytes():
    source = Image.Exif()
    source.endian = "<"
    source[0x010F], source[0x0112] = "Camera", 6
    made = rewritten(source.tobytes().removeprefix(b"Exif\0\0"))
    assert made[:4] == b"II*\0"
    assert dict(read(made)) == {0x010F: "Camera", 0x0112: 1}


@pytest.mark.parametrize("tags", [{}, {0x0112: tagged.short(6)}, {0x0100: tagged.long(5), 0x0101: tagged.long(6)}])
def test_what_says_nothing_of_its_own_is_nothing(tags):
    assert exif.rewrite(tagged.structure({"main": tags}), size=SIZE, location=True) == (None, False)


def directory(*entries: tuple[int, int, int, int], before: bytes = b"", following: int = 0) -> bytes:
    """A little-endian structure of one directory with these tags, types, counts and values, as they are."""
    body = b"".join(struct.pack("<HHLL", *entry) for entry in entries)
    start = 8 + len(before)
    return b"II*\0" + struct.pack("<L", start) + before + struct.pack("<H", len(entries)) + body + bytes(4)


CAMERA = (0x010F, 2, 4, 0x00656D69)
HOSTILE = {
    "empty": b"",
    "no header": b"hello, this is text",
    "header alone": b"II*\0",
    "BigTIFF": b"II+\0" + bytes(60),
    "nowhere": b"II*\0\xff\xff\xff\xff",
    "into the header": b"II*\0\0\0\0\0",
    "more entries than bytes": b"II*\0\x08\0\0\0\xff\xff" + bytes(40),
    "a value beyond the end": directory(CAMERA, (0x010E, 2, 2**31, 40)),
    "a count that overflows": directory(CAMERA, (0x010E, 12, 2**32 - 1, 8)),
    "a type that is none": directory(CAMERA, (0x010E, 99, 4, 1)),
    "a directory that is its own child": directory(CAMERA, (0x8769, 4, 1, 8), (0x8825, 4, 1, 8), (0xA005, 4, 1, 8)),
    "a child that is nowhere": directory(CAMERA, (0x8769, 4, 1, 2**32 - 1)),
    "one value many times": directory(*[(tag, 7, 60_000, 8) for tag in range(0x9000, 0x9100)], before=bytes(60_000)),
    "a number that is a word": directory(CAMERA, (0x0112, 2, 1, 6), (0x0100, 2, 1, 6)),
    "maker notes over the header": directory(CAMERA, (0x8769, 4, 1, 40), before=bytes(60)),
}


@pytest.mark.parametrize("location", [False, True])
@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_bytes_are_left_out(case, location):
    try:
        made, _ = exif.rewrite(HOSTILE[case], size=SIZE, location=location)
    except Unreadable:
        return
    assert len(made or b"") < 1000
    if made is not None:
        assert read(made).get(0x010F) in {"ime", None}
        assert exif.rewrite(made, size=SIZE, location=location) == (made, False)


@pytest.mark.parametrize("location", [False, True])
def test_cut_off_anywhere(location):
    for length in range(len(WHOLE)):
        try:
            made, damaged = exif.rewrite(WHOLE[:length], size=SIZE, location=location)
        except Unreadable:
            continue
        assert damaged or length > len(WHOLE) - 8, "a value or two are missing, and that is said"
        assert b"\xff\xd8" not in (made or b"")


def test_bytes_changed_anywhere():
    drawn = random.Random(0)
    for _ in range(3000):
        data = bytearray(WHOLE)
        for _ in range(drawn.choice((1, 2, 8))):
            data[drawn.randrange(len(data))] = drawn.choice((0, 255, drawn.randrange(256)))
        try:
            made, _ = exif.rewrite(bytes(data), size=SIZE, location=drawn.random() < 0.5)
        except Unreadable:
            continue
        assert len(made or b"") < 4 * len(WHOLE)
        if made is not None:
            Image.new("RGB", SIZE).save(io.BytesIO(), "PNG", exif=made)
