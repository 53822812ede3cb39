"""What a file says about its picture beside the pixels: EXIF, XMP and IPTC, where each format keeps them.

Here they are bytes, found and written; what they mean, and what of them is delivered, is `worker.metadata`.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

from PIL import Image, PngImagePlugin, TiffImagePlugin

IPTC_TAG, IPTC_RESOURCE = 0x83BB, 0x0404  # of a TIFF file; of Photoshop's image resources
ORIENTATION = 0x0112
RAW_PROFILE = "Raw profile type "  # texts of ImageMagick's in a PNG that has no eXIf chunk, or no other place
MARKER_BYTES = 65533  # that a marker segment of a JPEG holds, beside its length
XMP_MARK, IPTC_MARK = b"http://ns.adobe.com/xap/1.0/\0", b"Photoshop 3.0\0"


@dataclass(frozen=True)
class Embedded:
    """`exif` is a TIFF structure (of a TIFF picture: the whole file), `xmp` an XML packet, `iptc` IIM records."""

    exif: bytes | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None


NOTHING = Embedded()


def find_embedded(source: Image.Image, data: bytes) -> Embedded:
    """What the opened picture's file holds, unchecked. `data` is the file. Never raises."""
    exif, xmp = (source.info.get(name) or _raw_profile(source, name) for name in ("exif", "xmp"))
    iptc = _resource(source.info.get("photoshop")) or _from_resources(_raw_profile(source, "iptc"))
    if isinstance(source, TiffImagePlugin.TiffImageFile):
        exif, iptc = data, _tiff_iptc(source)
    return Embedded(
        exif.removeprefix(b"Exif\0\0") if isinstance(exif, bytes) and exif else None,
        xmp if isinstance(xmp, bytes) and xmp else None,
        iptc if isinstance(iptc, bytes) and iptc else None,
    )


def orientation(source: Image.Image) -> int:
    """As EXIF or XMP tell it; 1, upright, where neither can be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return int(source.getexif().get(ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - EXIF of hostile bytes raises nearly anything
        return 1


def too_long(metadata: Embedded, format: str) -> list[str]:
    """Which parts of it that format cannot hold."""
    if format == "webp":
        return ["IPTC"] if metadata.iptc else []
    if format != "jpeg":
        return []
    lengths = (
        ("EXIF", len(metadata.exif or b"") + 6),
        ("XMP", len(metadata.xmp or b"") + len(XMP_MARK)),
        ("IPTC", len(_resources(metadata.iptc or b""))),
    )
    return [name for name, length in lengths if length > MARKER_BYTES]


def saving(metadata: Embedded, format: str) -> dict[str, Any]:
    """The options with which Pillow writes it; it must fit (`too_long`)."""
    options: dict[str, Any] = {}
    if metadata.exif:
        options["exif"] = b"Exif\0\0" + metadata.exif
    if format == "png":
        texts = PngImagePlugin.PngInfo()
        if metadata.xmp:
            texts.add_itxt("XML:com.adobe.xmp", metadata.xmp.decode())
        if metadata.iptc:
            block = _resources(metadata.iptc).removeprefix(IPTC_MARK)
            texts.add_text(f"{RAW_PROFILE}iptc", f"\niptc\n{len(block):8}\n{block.hex()}\n", zip=True)
        return options | {"pnginfo": texts}
    if metadata.xmp:
        options["xmp"] = metadata.xmp
    if metadata.iptc and format == "jpeg":
        block = _resources(metadata.iptc)
        options["extra"] = b"\xff\xed" + (len(block) + 2).to_bytes(2, "big") + block
    return options


def _raw_profile(source: Image.Image, name: str) -> bytes | None:
    text = source.info.get(RAW_PROFILE + name)
    try:
        return bytes.fromhex("".join(str(text).split("\n")[3:])) if text else None
    except ValueError:
        return None


def _tiff_iptc(source: TiffImagePlugin.TiffImageFile) -> object:
    try:
        return source.tag_v2.get(IPTC_TAG)
    except Exception:  # noqa: BLE001 - tags are decoded when they are asked for
        return None


def _resource(resources: object) -> object:
    return resources.get(IPTC_RESOURCE) if isinstance(resources, dict) else None


def _from_resources(block: bytes | None) -> bytes | None:
    """The IPTC records in Photoshop's image resources, or bytes that are such records themselves."""
    if not block or not block.startswith(b"8BIM"):
        return block
    place = 0
    while block[place : place + 4] == b"8BIM" and place + 12 <= len(block):
        kind, name = int.from_bytes(block[place + 4 : place + 6], "big"), block[place + 6]
        place += 7 + name + (name + 1) % 2  # names are padded to an even length, their own length's byte included
        size = int.from_bytes(block[place : place + 4], "big")
        if kind == IPTC_RESOURCE:
            return block[place + 4 : place + 4 + size]
        place += 4 + size + size % 2
    return None


def _resources(iptc: bytes) -> bytes:
    """Photoshop's image resources with these records alone, as a JPEG's APP13 segment holds them."""
    return IPTC_MARK + b"8BIM\x04\x04\0\0" + len(iptc).to_bytes(4, "big") + iptc + bytes(len(iptc) % 2)
