"""IPTC: datasets that stay and those that go."""

from __future__ import annotations

import random

import pytest

from tests.tagged import dataset, iptc
from worker.metadata.found import Unreadable
from worker.metadata.iptc import MAX_BYTES, rewrite

PREVIEW = b"\xff\xd8\xff\xe0" + bytes(300)
WHOLE = iptc(PREVIEW)
PLACES = (26, 27, 90, 92, 95, 100, 101)


@pytest.mark.parametrize("location", [False, True])
def test_what_stays_and_what_goes(location):
    made, damaged = rewrite(WHOLE, location=location)
    assert made is not None
    assert not damaged
    assert "Müller".encode() in made
    assert PREVIEW not in made
    assert (b"Berlin" in made, b"Germany" in made) == (location, location)
    assert rewrite(made, location=location) == (made, False)


@pytest.mark.parametrize("kind", [*PLACES, 200, 201, 202])
def test_each_place_and_preview(kind):
    data = dataset(5, b"title") + dataset(kind, b"it") + dataset(105, b"headline")
    assert rewrite(data, location=False)[0] == dataset(5, b"title") + dataset(105, b"headline")
    assert rewrite(data, location=True)[0] == (data if kind in PLACES else rewrite(data, location=False)[0])


@pytest.mark.parametrize("record", [3, 7, 8, 9, 0, 255])
def test_other_records_go(record):
    assert rewrite(dataset(10, b"object", record), location=True) == (None, False)


@pytest.mark.parametrize("location", [False, True])
def test_a_picture_under_another_name_goes(location):
    assert rewrite(dataset(5, PREVIEW), location=location) == (None, False)


@pytest.mark.parametrize("data", [b"", b"8BIM", b"\0" * 50, dataset(5, b"x") * (MAX_BYTES // 6 + 1)])
def test_what_is_none(data):
    with pytest.raises(Unreadable):
        rewrite(data, location=True)


@pytest.mark.parametrize(
    ("tail", "damaged"),
    [
        (b"", False),
        (b"\0", False),  # padding
        (b"\x1c", True),
        (b"\x1c\x02\x05\x00\x09cut", True),
        (b"\x1c\x02\x05\x80\x04\xff\xff\xff\xff", True),  # a length of a length
        (b"text", True),
    ],
)
def test_what_follows_and_cannot_be_read(tail, damaged):
    assert rewrite(dataset(5, b"title") + tail, location=True) == (dataset(5, b"title"), damaged)


def test_bytes_changed_anywhere():
    drawn = random.Random(0)
    for _ in range(2000):
        data = bytearray(WHOLE[: drawn.randrange(1, len(WHOLE))])
        data[drawn.randrange(len(data))] = drawn.randrange(256)
        try:
            made, _ = rewrite(bytes(data), location=drawn.random() < 0.5)
        except Unreadable:
            continue
        assert b"\xff\xd8\xff\xe0" not in (made or b"")
