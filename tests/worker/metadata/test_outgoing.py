"""The whole way of a photograph's metadata: read from every format, delivered in every format under every policy."""

from __future__ import annotations

import struct

import pytest
from PIL import Image

from service.contracts.delivery import EXIF_POLICIES, FORMATS
from service.contracts.pictures import read_picture, write_picture
from tests import tagged
from tests.helpers import encoded, opened
from worker.metadata import outgoing

LIMIT = 10**6
SOI = b"\xff\xd8\xff"
WHERE = (b"Berlin", b"Germany", b"GPSLatitude")  # in XMP and IPTC; EXIF's GPS is looked at apart


def iptc_of(file: Image.Image) -> bytes:
    text = file.info.get("Raw profile type iptc")
    block = bytes.fromhex("".join(text.split("\n")[3:])) if text else b""
    return file.info.get("photoshop", {}).get(0x0404, block)


def sent_as(kind: str, photograph: Image.Image) -> bytes:
    """The same photograph and metadata in other formats."""
    phone = tagged.phone(photograph)
    if kind == "jpeg":
        return phone
    stored, preview = opened(phone), tagged.thumbnail(photograph)
    exif, xmp = stored.info["exif"], stored.info["xmp"]
    if kind in {"webp", "avif"}:
        return encoded(stored.convert("RGB"), kind.upper(), exif=exif, xmp=xmp, quality=95)
    if kind == "png":
        picture = read_picture(phone, max_pixels=LIMIT)
        return write_picture(stored.convert("RGB"), picture, "png", metadata=picture.embedded)
    rows = stored.convert("RGB").tobytes()
    places = {0x0111: tagged.long(tagged.NOTES_AT + len(tagged.NOTES)), 0x0117: tagged.long(len(rows))}
    bits = (tagged.SHORT, struct.pack(">3H", 8, 8, 8))
    shape = {0x0102: bits, 0x0103: tagged.short(1), 0x0106: tagged.short(2), 0x0115: tagged.short(3)}
    other = {0x02BC: (tagged.BYTE, xmp), 0x83BB: (tagged.UNDEFINED, tagged.iptc(preview))}
    return tagged.exif(
        rows, stored.size, pages=1, main={**places, **shape, **other, 0x0116: tagged.long(stored.size[1])}
    )


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("policy", EXIF_POLICIES)
@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "avif", "tiff"])
def test_from_every_format_into_every_format(kind, policy, format, photograph):
    data = sent_as(kind, photograph)
    picture = read_picture(data, max_pixels=LIMIT)
    assert picture.size == photograph.size
    metadata, told = outgoing(picture, format, policy=policy, reservation="none")
    made = write_picture(picture.pixels, picture, format, metadata=metadata)
    file = opened(made)
    assert file.size == photograph.size

    exif, xmp, iptc = file.getexif(), file.info.get("xmp", b""), iptc_of(file)
    assert made.count(SOI) == (format == "jpeg"), "the file's own begin, and no other picture's"
    assert b"/9j/" not in made
    assert not exif.get_ifd(1)
    if policy == "strip":
        assert (dict(exif), xmp, iptc, told) == ({}, b"", b"", [])
        return
    assert (exif[0x0112], exif[0x0100], exif[0x0101]) == (1, *photograph.size)
    if kind != "avif":  # where Pillow writes EXIF of its own
        assert exif[0x8298].encode("latin-1").decode() == tagged.COPYRIGHT
    assert bool(exif.get_ifd(0x8825)) is (policy == "keep")
    assert (tagged.NOTES in made) is (policy == "keep")
    assert tagged.COPYRIGHT.encode() in xmp
    assert b'Orientation="6"' not in xmp
    has_iptc = kind in {"jpeg", "png", "tiff"}  # the others have no place for it
    assert ("Müller".encode() in iptc) is (has_iptc and format != "webp")
    assert told == (["IPTC: webp cannot hold it."] if has_iptc and format == "webp" else [])
    assert (b"Berlin" in xmp) is (policy == "keep")
    if policy != "keep":
        assert not any(word in made for word in WHERE)

    again = read_picture(made, max_pixels=LIMIT)
    assert again.size == photograph.size, "it is not turned a second time"
    assert outgoing(again, format, policy=policy, reservation="none") == (metadata, [])


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("policy", EXIF_POLICIES)
def test_data_mining_is_reserved_under_every_policy(policy, format, photograph):
    picture = read_picture(tagged.phone(photograph), max_pixels=LIMIT)
    metadata, _ = outgoing(picture, format, policy=policy, reservation="reserved")
    xmp = opened(write_picture(picture.pixels, picture, format, metadata=metadata)).info["xmp"]
    assert b"<plus:DataMining>http://ns.useplus.org/ldf/vocab/DMI-PROHIBITED</plus:DataMining>" in xmp
    assert (tagged.COPYRIGHT.encode() in xmp) is (policy != "strip")


BAD_XML = b'<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]><x>&b;</x>'
LONG_XMP = (
    b'<r:RDF xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><r:Description xmlns:k="urn:k" k:kept="%s"/></r:RDF>'
)
GONE = "it could not be read and was left out."
PARTS = "parts of it could not be read and were left out."
HOSTILE = {
    "EXIF of text": ({"exif": b"hello, this is text"}, f"EXIF: {GONE}"),
    "EXIF cut off": ({"exif": tagged.exif(b"", (80, 96))[:-40]}, f"EXIF: {PARTS}"),
    "EXIF of nothing": ({"exif": bytes(60_000)}, f"EXIF: {GONE}"),
    "XMP that laughs": ({"xmp": BAD_XML}, f"XMP: {GONE}"),
    "XMP cut off": ({"xmp": b"<x:xmpmeta"}, f"XMP: {GONE}"),
    "XMP of zeros": ({"xmp": bytes(60_000)}, f"XMP: {GONE}"),
    "IPTC of text": ({"iptc": b"hello"}, f"IPTC: {GONE}"),
    "IPTC cut off": ({"iptc": tagged.dataset(5, b"it") + b"\x1c\x02\x05\0\x50cut"}, f"IPTC: {PARTS}"),
    "a profile of text": ({"icc_profile": b"hello"}, f"ICC profile: {GONE}"),
    "a profile of zeros": ({"icc_profile": bytes(200_000)}, f"ICC profile: {GONE}"),
    "a profile cut off": ({"icc_profile": tagged.PROFILE[:-50]}, f"ICC profile: {GONE}"),
}


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("case", HOSTILE)
def test_what_cannot_be_read_is_left_out_and_told(case, format, photograph):
    parts, sentence = HOSTILE[case]
    picture = read_picture(tagged.phone(photograph, **parts), max_pixels=LIMIT)
    metadata, told = outgoing(picture, format, policy="keep", reservation="reserved")
    made = opened(write_picture(picture.pixels, picture, format, metadata=metadata))
    assert set(told) <= {sentence, "IPTC: webp cannot hold it."}
    assert sentence in told or (format, case) == ("webp", "IPTC cut off"), "then there is no use in telling"
    assert b"DMI-PROHIBITED" in made.info["xmp"], "the reservation does not hang on what was sent"
    assert ("icc_profile" in made.info) is ("profile" not in case)
    assert made.size == (photograph.size if "EXIF" not in case or "cut off" in case else photograph.size[::-1])


def test_what_is_too_long_for_a_jpeg(photograph):
    long = LONG_XMP % (b"x" * 70_000)
    picture = read_picture(encoded(photograph, "WEBP", xmp=long), max_pixels=LIMIT)
    for format, kept in (("png", True), ("webp", True), ("jpeg", False)):
        metadata, told = outgoing(picture, format, policy="keep", reservation="reserved")
        assert told == ([] if kept else ["XMP: it is too long for jpeg."])
        xmp = opened(write_picture(picture.pixels, picture, format, metadata=metadata)).info["xmp"]
        assert (b"xxxx" in xmp) is kept
        assert b"DMI-PROHIBITED" in xmp


@pytest.mark.parametrize(
    "name", ["exif", "xmp", "icc_profile", "photoshop", "Raw profile type exif", "Raw profile type iptc"]
)
def test_a_text_that_is_named_like_something_else(name, photograph):
    from PIL.PngImagePlugin import PngInfo

    texts = PngInfo()
    texts.add_text(name, "just a text")
    picture = read_picture(encoded(photograph, "PNG", pnginfo=texts), max_pixels=LIMIT)
    assert picture.pixels.tobytes() == photograph.tobytes()
    for policy in EXIF_POLICIES:
        metadata, _ = outgoing(picture, "jpeg", policy=policy, reservation="none")
        assert not any((metadata.exif, metadata.xmp, metadata.iptc))


@pytest.mark.parametrize("format", ["png", "webp"])
def test_alpha_and_metadata_together(format, photograph):
    alpha = Image.linear_gradient("L").resize(photograph.size)
    whole = photograph.convert("RGBA")
    whole.putalpha(alpha)
    exif = b"Exif\0\0" + tagged.exif(b"", photograph.size, main={0x0112: tagged.short(1)})
    data = encoded(whole, "PNG", exif=exif, icc_profile=tagged.PROFILE)
    picture = read_picture(data, max_pixels=LIMIT)
    metadata, told = outgoing(picture, format, policy="strip-location", reservation="none")
    made = opened(write_picture(picture.pixels, picture, format, metadata=metadata))
    assert (made.mode, made.getchannel("A").tobytes(), made.info["icc_profile"]) == (
        "RGBA",
        alpha.tobytes(),
        tagged.PROFILE,
    )
    assert (made.getexif()[0x010F], told) == ("Camera", [])
